"""The decoder: one file, configured by a Hugging Face config.json, module names as Hugging Face has them.

Weights keep Hugging Face's orientation ([out, in]), so loading and saving moves bytes and nothing else. The
layers are stacked on a leading axis and scanned: one compiled layer, whatever the depth.

Axes: B = rows, L = positions, M = slots of keys (L, or the cache's), D = hidden size, V = vocabulary,
N = query heads, K = key-value heads, H = head dimension.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from train.attention import attention
from train.hf_config import DecoderConfig, Rope


def rope_frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """[H / 2] float64, radians a position. Source: transformers' ROPE_INIT_FUNCTIONS (default, linear, llama3)."""
    frequencies = rope.theta ** (-np.arange(0, head_dim, 2) / head_dim)
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        turns = rope.original_max_position_embeddings * frequencies / (2 * np.pi)
        ramp = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        keep = np.clip(ramp, 0.0, 1.0)
        return keep * frequencies + (1 - keep) * frequencies / rope.factor
    return frequencies


def rotate(x_BLNH: jax.Array, position_BL: jax.Array, frequencies: np.ndarray) -> jax.Array:
    """Rotary embedding in the half-split form that Hugging Face checkpoints use; angles in float32 or wider."""
    wide = jnp.promote_types(x_BLNH.dtype, jnp.float32)
    angles = position_BL[:, :, None, None].astype(wide) * jnp.asarray(frequencies, wide)
    first, second = jnp.split(x_BLNH.astype(wide), 2, axis=-1)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BLNH.dtype)


class Linear(nnx.Module):
    """y = x W^T + b, weight [out, in]."""

    def __init__(self, in_dim: int, out_dim: int, *, bias: bool, std: float, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.weight = nnx.Param(jax.random.normal(rngs.params(), (out_dim, in_dim), dtype) * std)
        self.bias = nnx.Param(jnp.zeros(out_dim, dtype)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jnp.einsum("...i,oi->...o", x, self.weight[...].astype(x.dtype))
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class RMSNorm(nnx.Module):
    """x / rms(x) * weight, the mean square in float32 or wider."""

    def __init__(self, dim: int, *, eps: float, dtype: jnp.dtype):
        self.weight = nnx.Param(jnp.ones(dim, dtype))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return (normed.astype(x.dtype)) * self.weight[...].astype(x.dtype)


class Cache(NamedTuple):
    """Keys and values of tokens seen so far, of all layers ([layers, …]) or of one.

    Attributes:
      key, value: [layers, B, M, K, H] in the compute dtype.
      used: [layers] int32, slots that are filled.
    """

    key: jax.Array
    value: jax.Array
    used: jax.Array


def empty_cache(config: DecoderConfig, *, batch: int, slots: int, dtype: jnp.dtype) -> Cache:
    shape = (config.num_hidden_layers, batch, slots, config.num_key_value_heads, config.head_dim)
    return Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros(config.num_hidden_layers, jnp.int32))


class Attention(nnx.Module):
    def __init__(self, config: DecoderConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        hidden, std, dim = config.hidden_size, config.initializer_range, config.head_dim
        query, key_value = config.num_attention_heads * dim, config.num_key_value_heads * dim
        bias = config.query_key_value_bias
        self.q_proj = Linear(hidden, query, bias=bias, std=std, dtype=dtype, rngs=rngs)
        self.k_proj = Linear(hidden, key_value, bias=bias, std=std, dtype=dtype, rngs=rngs)
        self.v_proj = Linear(hidden, key_value, bias=bias, std=std, dtype=dtype, rngs=rngs)
        self.o_proj = Linear(query, hidden, bias=config.output_bias, std=std, dtype=dtype, rngs=rngs)
        self.head_dim = dim
        self.rope = config.rope

    def __call__(
        self, x_BLD: jax.Array, position_BL: jax.Array, end_BM: jax.Array, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        batch, length, _ = x_BLD.shape
        frequencies = rope_frequencies(self.rope, self.head_dim)
        query, key, value = (
            project(x_BLD).reshape(batch, length, -1, self.head_dim)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = (rotate(x, position_BL, frequencies) for x in (query, key))
        first_query: jax.Array | int = 0
        if cache is not None:
            first_query = cache.used
            key, value = (
                jax.lax.dynamic_update_slice_in_dim(past, new, first_query, axis=1)
                for past, new in ((cache.key, key), (cache.value, value))
            )
            cache = Cache(key=key, value=value, used=cache.used + length)
        mixed = attention(query, key, value, end_BM, first_query=first_query)
        return self.o_proj(mixed.reshape(batch, length, -1)), cache


class MLP(nnx.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: DecoderConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        hidden, inner = config.hidden_size, config.intermediate_size
        bias, std = config.mlp_bias, config.initializer_range
        self.gate_proj = Linear(hidden, inner, bias=bias, std=std, dtype=dtype, rngs=rngs)
        self.up_proj = Linear(hidden, inner, bias=bias, std=std, dtype=dtype, rngs=rngs)
        self.down_proj = Linear(inner, hidden, bias=bias, std=std, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down_proj(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nnx.Module):
    def __init__(self, config: DecoderConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps, dtype=dtype)
        self.self_attn = Attention(config, dtype=dtype, rngs=rngs)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps, dtype=dtype)
        self.mlp = MLP(config, dtype=dtype, rngs=rngs)

    def __call__(
        self, x_BLD: jax.Array, position_BL: jax.Array, end_BM: jax.Array, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        attended, cache = self.self_attn(self.input_layernorm(x_BLD), position_BL, end_BM, cache)
        x_BLD = x_BLD + attended
        return x_BLD + self.mlp(self.post_attention_layernorm(x_BLD)), cache


class Table(nnx.Module):
    """A [V, D] table: the embedding, and the head where it is not tied."""

    def __init__(self, config: DecoderConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        shape = (config.vocab_size, config.hidden_size)
        self.weight = nnx.Param(jax.random.normal(rngs.params(), shape, dtype) * config.initializer_range)


class Decoder(nnx.Module):
    """Token ids to hidden states. The head stays apart: the loss fuses it (train/head.py).

    Args:
      config: the decoder's fields.
      param_dtype: what weights are stored in.
      compute_dtype: what matrix products take; reductions are float32 or wider.
      remat: recompute each layer in the backward pass instead of keeping its activations.
      constrain: called on the hidden states between layers, to pin their sharding.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        rngs: nnx.Rngs,
        param_dtype: jnp.dtype = jnp.float32,
        compute_dtype: jnp.dtype = jnp.float32,
        remat: bool = False,
        constrain: Callable[[jax.Array], jax.Array] = lambda x: x,
    ):
        @nnx.split_rngs(splits=config.num_hidden_layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stacked_layers(rngs: nnx.Rngs) -> Layer:
            return Layer(config, dtype=param_dtype, rngs=rngs)

        self.embed_tokens = Table(config, dtype=param_dtype, rngs=rngs)
        self.layers = stacked_layers(rngs)
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps, dtype=param_dtype)
        self.lm_head = None if config.tie_word_embeddings else Table(config, dtype=param_dtype, rngs=rngs)
        self.compute_dtype = compute_dtype
        self.remat = remat
        self.constrain = constrain

    def __call__(self, inputs_BL: jax.Array, position_BL: jax.Array, end_BL: jax.Array) -> jax.Array:
        """Hidden states [B, L, D] after the last norm, in the compute dtype."""
        return self.extend(inputs_BL, position_BL, end_BL, None)[0]

    def extend(
        self, inputs_BL: jax.Array, position_BL: jax.Array, end_BM: jax.Array, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        """As `__call__`, after the tokens whose keys and values are in the cache; returns the longer cache too.

        Args:
          end_BM: of every slot of the cache, M of them; without a cache M = L.
        """
        definition, weights = nnx.split(self.layers)

        def one_layer(x_BLD: jax.Array, layer: tuple[nnx.State, Cache | None]) -> tuple[jax.Array, Cache | None]:
            x_BLD, layer_cache = nnx.merge(definition, layer[0])(x_BLD, position_BL, end_BM, layer[1])
            return self.constrain(x_BLD), layer_cache

        x_BLD = self.constrain(self.embed_tokens.weight[...][inputs_BL].astype(self.compute_dtype))
        body = jax.checkpoint(one_layer) if self.remat else one_layer
        x_BLD, cache = jax.lax.scan(body, x_BLD, (weights, cache))
        return self.norm(x_BLD), cache

    @property
    def head_VD(self) -> jax.Array:
        """The head's weight [V, D] in the param dtype: the embedding itself where the two are tied."""
        return (self.lm_head or self.embed_tokens).weight[...]
