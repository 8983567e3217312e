"""The decoder: one file, configured by a Hugging Face config.json, module names as Hugging Face has them.

Weights keep Hugging Face's orientation ([out, in]), so loading and saving moves bytes and nothing else. The
layers are stacked on a leading axis and scanned: one compiled layer, whatever the depth.

Axes: B = rows, L = positions, M = slots of keys (L, or the cache's), D = hidden size, V = vocabulary,
N = query heads, K = key-value heads, H = head dimension.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from oddsmill.train.attention.attention import attention
from oddsmill.train.attention.mask import Keys
from oddsmill.train.attention.mechanism import Mechanism
from oddsmill.train.attention.vanilla import softcapped
from oddsmill.train.attention.xla import XLA
from oddsmill.train.model.dropout import AFTER_ATTENTION, AFTER_MLP, ATTENTION, drop
from oddsmill.train.model.hf_config import DecoderConfig, Rope


def rope_frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """[R / 2] float64, radians a position, R the dimensions that turn.

    Source: transformers' ROPE_INIT_FUNCTIONS (default, linear, llama3).
    """
    turning = int(head_dim * rope.partial_rotary_factor)
    frequencies = rope.theta ** (-np.arange(0, turning, 2) / turning)
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        turns = rope.original_max_position_embeddings * frequencies / (2 * np.pi)
        ramp = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        keep = np.clip(ramp, 0.0, 1.0)
        return keep * frequencies + (1 - keep) * frequencies / rope.factor
    return frequencies


def rotate(x_BLNH: jax.Array, position_BL: jax.Array, frequencies: jax.Array) -> jax.Array:
    """Rotary embedding in the half-split form that Hugging Face checkpoints use; angles in float32 or wider."""
    wide = jnp.promote_types(x_BLNH.dtype, jnp.float32)
    angles = position_BL[:, :, None, None].astype(wide) * frequencies.astype(wide)
    turning, still = jnp.split(x_BLNH.astype(wide), [2 * frequencies.shape[-1]], axis=-1)
    first, second = jnp.split(turning, 2, axis=-1)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin, still], axis=-1)
    return turned.astype(x_BLNH.dtype)


class Adapter(nnx.Module):
    """LoRA, what a linear layer adds to its result: scaling * dropout(x) A^T B^T. train/model/lora.py makes them.

    Args:
      lora_A: [rank, in].
      lora_B: [out, rank].
      dropout, stream: rate and stream of train/model/dropout.py, for x.
    """

    def __init__(self, lora_A: jax.Array, lora_B: jax.Array, *, scaling: float, dropout: float, stream: int):
        self.lora_A, self.lora_B = nnx.Param(lora_A), nnx.Param(lora_B)
        self.scaling, self.dropout, self.stream = scaling, dropout, stream

    def __call__(self, x: jax.Array, dropout_B: jax.Array | None) -> jax.Array:
        x = drop(x, dropout_B, stream=self.stream, rate=self.dropout)
        narrow = jnp.einsum("...i,ri->...r", x, self.lora_A[...].astype(x.dtype))
        return self.scaling * jnp.einsum("...r,or->...o", narrow, self.lora_B[...].astype(x.dtype))


class Linear(nnx.Module):
    """y = x W^T + b, weight [out, in]; and what the adapter adds, where there is one."""

    def __init__(self, in_dim: int, out_dim: int, *, bias: bool, std: float, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.weight = nnx.Param(jax.random.normal(rngs.params(), (out_dim, in_dim), dtype) * std)
        self.bias = nnx.Param(jnp.zeros(out_dim, dtype)) if bias else None
        self.adapter: Adapter | None = None

    def __call__(self, x: jax.Array, dropout_B: jax.Array | None = None) -> jax.Array:
        y = jnp.einsum("...i,oi->...o", x, self.weight[...].astype(x.dtype))
        if self.adapter is not None:
            y += self.adapter(x, dropout_B)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class RMSNorm(nnx.Module):
    """x / rms(x) * weight, the mean square in float32 or wider; in Gemma x / rms(x) * (1 + weight), all of it."""

    def __init__(self, dim: int, config: DecoderConfig, *, dtype: jnp.dtype):
        self.weight = nnx.Param(jnp.zeros(dim, dtype) if config.gemma_norm else jnp.ones(dim, dtype))
        self.eps = config.rms_norm_eps
        self.gemma = config.gemma_norm

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        if self.gemma:
            return (normed * (1 + self.weight[...].astype(wide.dtype))).astype(x.dtype)
        return normed.astype(x.dtype) * self.weight[...].astype(x.dtype)


class Turn(NamedTuple):
    """What differs from layer to layer besides weights; scanned along with them.

    Attributes:
      frequencies: [R / 2] of the rotary embedding.
      window: int32 scalar, as in `attention`; None where no layer has one.
      dropout: [B] keys; None where nothing is dropped.
    """

    frequencies: jax.Array
    window: jax.Array | None
    dropout: jax.Array | None


def layer_turns(config: DecoderConfig, dropout_B: jax.Array | None) -> Turn:
    """Of all layers, stacked."""
    layers = config.num_hidden_layers
    dropout = None if dropout_B is None else jax.vmap(lambda key: jax.random.split(key, layers), out_axes=1)(dropout_B)
    frequencies = np.stack([rope_frequencies(rope, config.head_dim) for rope in config.ropes])
    if not any(config.windows):
        return Turn(jnp.asarray(frequencies), None, dropout)
    unlimited = np.iinfo(np.int32).max
    windows = np.array([window or unlimited for window in config.windows], np.int32)
    return Turn(jnp.asarray(frequencies), jnp.asarray(windows), dropout)


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
    def __init__(self, config: DecoderConfig, *, mechanism: Mechanism, dtype: jnp.dtype, rngs: nnx.Rngs):
        hidden, std, dim = config.hidden_size, config.initializer_range, config.head_dim
        query, key_value = config.num_attention_heads * dim, config.num_key_value_heads * dim
        bias = config.query_key_value_bias
        if config.fused_projections:
            self.qkv_proj = Linear(hidden, query + 2 * key_value, bias=bias, std=std, dtype=dtype, rngs=rngs)
        else:
            self.q_proj = Linear(hidden, query, bias=bias, std=std, dtype=dtype, rngs=rngs)
            self.k_proj = Linear(hidden, key_value, bias=bias, std=std, dtype=dtype, rngs=rngs)
            self.v_proj = Linear(hidden, key_value, bias=bias, std=std, dtype=dtype, rngs=rngs)
        self.o_proj = Linear(query, hidden, bias=config.output_bias, std=std, dtype=dtype, rngs=rngs)
        self.q_norm = RMSNorm(dim, config, dtype=dtype) if config.query_key_norm else None
        self.k_norm = RMSNorm(dim, config, dtype=dtype) if config.query_key_norm else None
        self.config, self.mechanism = config, mechanism

    def project(self, x_BLD: jax.Array, dropout_B: jax.Array | None) -> list[jax.Array]:
        """Queries [B, L, N, H], keys and values [B, L, K, H], not yet rotated."""
        config, (batch, length, _) = self.config, x_BLD.shape
        if config.fused_projections:
            query, key_value = (h * config.head_dim for h in (config.num_attention_heads, config.num_key_value_heads))
            projected = jnp.split(self.qkv_proj(x_BLD, dropout_B), [query, query + key_value], axis=-1)
        else:
            projected = [linear(x_BLD, dropout_B) for linear in (self.q_proj, self.k_proj, self.v_proj)]
        return [x.reshape(batch, length, -1, config.head_dim) for x in projected]

    def drop_weights(self, dropout_B: jax.Array | None) -> Callable[[jax.Array], jax.Array] | None:
        rate = self.config.attention_dropout
        return partial(drop, keys_B=dropout_B, stream=ATTENTION, rate=rate) if rate and dropout_B is not None else None

    def __call__(
        self, x_BLD: jax.Array, position_BL: jax.Array, keys: Keys, turn: Turn, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        batch, length, _ = x_BLD.shape
        query, key, value = self.project(x_BLD, turn.dropout)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = (rotate(x, position_BL, turn.frequencies) for x in (query, key))
        first_query: jax.Array | int = 0
        if cache is not None:
            first_query = cache.used
            key, value = (
                jax.lax.dynamic_update_slice_in_dim(past, new, first_query, axis=1)
                for past, new in ((cache.key, key), (cache.value, value))
            )
            cache = Cache(key=key, value=value, used=cache.used + length)
        mixed = attention(
            query,
            key,
            value,
            position_BL,
            keys,
            scale=self.config.attention_scale,
            first_query=first_query,
            window=turn.window,
            softcap=self.config.attn_logit_softcapping,
            drop=self.drop_weights(turn.dropout),
            mechanism=self.mechanism,
        )
        return self.o_proj(mixed.reshape(batch, length, -1), turn.dropout), cache


class MLP(nnx.Module):
    """A gated MLP: down(act(gate(x)) * up(x))."""

    def __init__(self, config: DecoderConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        hidden, inner = config.hidden_size, config.intermediate_size
        bias, std = config.mlp_bias, config.initializer_range
        if config.fused_projections:
            self.gate_up_proj = Linear(hidden, 2 * inner, bias=bias, std=std, dtype=dtype, rngs=rngs)
        else:
            self.gate_proj = Linear(hidden, inner, bias=bias, std=std, dtype=dtype, rngs=rngs)
            self.up_proj = Linear(hidden, inner, bias=bias, std=std, dtype=dtype, rngs=rngs)
        self.down_proj = Linear(inner, hidden, bias=bias, std=std, dtype=dtype, rngs=rngs)
        self.fused = config.fused_projections
        self.activation = jax.nn.silu if config.hidden_act == "silu" else jax.nn.gelu  # JAX's gelu is the tanh form

    def __call__(self, x: jax.Array, dropout_B: jax.Array | None) -> jax.Array:
        if self.fused:
            gate, up = jnp.split(self.gate_up_proj(x, dropout_B), 2, -1)
        else:
            gate, up = self.gate_proj(x, dropout_B), self.up_proj(x, dropout_B)
        return self.down_proj(self.activation(gate) * up, dropout_B)


class Layer(nnx.Module):
    def __init__(self, config: DecoderConfig, *, attn_mechanism: Mechanism, dtype: jnp.dtype, rngs: nnx.Rngs):
        def norm() -> RMSNorm:
            return RMSNorm(config.hidden_size, config, dtype=dtype)

        self.input_layernorm, self.post_attention_layernorm = norm(), norm()
        if config.post_norms:
            self.pre_feedforward_layernorm, self.post_feedforward_layernorm = norm(), norm()
        self.self_attn = Attention(config, mechanism=attn_mechanism, dtype=dtype, rngs=rngs)
        self.mlp = MLP(config, dtype=dtype, rngs=rngs)
        self.post_norms, self.resid_pdrop = config.post_norms, config.resid_pdrop

    def __call__(
        self, x_BLD: jax.Array, position_BL: jax.Array, keys: Keys, turn: Turn, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        attended, cache = self.self_attn(self.input_layernorm(x_BLD), position_BL, keys, turn, cache)
        if self.post_norms:  # the name says something else here than in the families without post norms
            x_BLD = x_BLD + self.post_attention_layernorm(attended)
            gated = self.mlp(self.pre_feedforward_layernorm(x_BLD), turn.dropout)
            return x_BLD + self.post_feedforward_layernorm(gated), cache
        x_BLD = x_BLD + drop(attended, turn.dropout, stream=AFTER_ATTENTION, rate=self.resid_pdrop)
        gated = self.mlp(self.post_attention_layernorm(x_BLD), turn.dropout)
        return x_BLD + drop(gated, turn.dropout, stream=AFTER_MLP, rate=self.resid_pdrop), cache


class Table(nnx.Module):
    """A [V, D] table: the embedding, and the head where it is not tied; `zero_row` begins as zeros."""

    def __init__(self, config: DecoderConfig, *, zero_row: int | None = None, dtype: jnp.dtype, rngs: nnx.Rngs):
        shape = (config.vocab_size, config.hidden_size)
        weight = jax.random.normal(rngs.params(), shape, dtype) * config.initializer_range
        self.weight = nnx.Param(weight if zero_row is None else weight.at[zero_row].set(0))


class Decoder(nnx.Module):
    """Token ids to hidden states. The head stays apart: the loss fuses it (fused_head.py).

    Args:
      config: the decoder's fields.
      param_dtype: what weights are stored in.
      compute_dtype: what matrix products take; reductions are float32 or wider.
      attn_mechanism: computes the attention of whole rows (train/attention/attention.py).
      remat: recompute each layer in the backward pass instead of keeping its activations; all of it, or all but what
        a policy of jax.checkpoint_policies keeps.
      constrain: called on the hidden states between layers, to pin their sharding.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        rngs: nnx.Rngs,
        param_dtype: jnp.dtype = jnp.float32,
        compute_dtype: jnp.dtype = jnp.float32,
        attn_mechanism: Mechanism = XLA,
        remat: bool | str = False,
        constrain: Callable[[jax.Array], jax.Array] = lambda x: x,
    ):
        @nnx.split_rngs(splits=config.num_hidden_layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stacked_layers(rngs: nnx.Rngs) -> Layer:
            return Layer(config, attn_mechanism=attn_mechanism, dtype=param_dtype, rngs=rngs)

        self.embed_tokens = Table(config, zero_row=config.pad_token_id, dtype=param_dtype, rngs=rngs)
        self.layers = stacked_layers(rngs)
        self.norm = RMSNorm(config.hidden_size, config, dtype=param_dtype)
        self.lm_head = None if config.tie_word_embeddings else Table(config, dtype=param_dtype, rngs=rngs)
        self.config = config
        self.compute_dtype = compute_dtype
        self.remat = remat
        self.constrain = constrain

    def __call__(
        self,
        inputs_BL: jax.Array,
        position_BL: jax.Array,
        end_BL: jax.Array,
        dropout_B: jax.Array | None = None,
    ) -> jax.Array:
        """Hidden states [B, L, D] after the last norm, in the compute dtype.

        Args:
          dropout_B: a key a row, for the dropout of the config and of adapters; None drops nothing.
        """
        keys = Keys(position=position_BL, end=end_BL)
        return self.extend(inputs_BL, position_BL, keys, None, dropout_B)[0]

    def extend(
        self,
        inputs_BL: jax.Array,
        position_BL: jax.Array,
        keys: Keys,
        cache: Cache | None,
        dropout_B: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """As `__call__`, after the tokens whose keys and values are in the cache; returns the longer cache too.

        Args:
          keys: of every slot of the cache, M of them; without a cache M = L.
        """
        definition, weights = nnx.split(self.layers)

        def one_layer(x_BLD: jax.Array, layer: tuple[nnx.State, Turn, Cache | None]) -> tuple[jax.Array, Cache | None]:
            layer_weights, turn, layer_cache = layer
            x_BLD, layer_cache = nnx.merge(definition, layer_weights)(x_BLD, position_BL, keys, turn, layer_cache)
            return self.constrain(x_BLD), layer_cache

        x_BLD = self.embed_tokens.weight[...][inputs_BL].astype(self.compute_dtype)
        if self.config.scaled_embedding:
            x_BLD *= jnp.asarray(self.config.hidden_size**0.5, self.compute_dtype)
        body = one_layer
        if self.remat:
            policy = getattr(jax.checkpoint_policies, self.remat) if isinstance(self.remat, str) else None
            # A loop keeps what is computed again apart by itself; barriers would keep XLA from fusing it.
            body = jax.checkpoint(one_layer, policy=policy, prevent_cse=False)
        x_BLD, cache = jax.lax.scan(body, self.constrain(x_BLD), (weights, layer_turns(self.config, dropout_B), cache))
        return self.norm(x_BLD), cache

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Logits [..., V] of hidden states [..., D], in float32 or wider; the loss has its own way (fused_head.py)."""
        wide = jnp.promote_types(hidden.dtype, jnp.float32)
        logits = jnp.einsum("...d,vd->...v", hidden, self.head_VD.astype(hidden.dtype), preferred_element_type=wide)
        return softcapped(logits, self.config.final_logit_softcapping)

    @property
    def head_VD(self) -> jax.Array:
        """The head's weight [V, D] in the param dtype: the embedding itself where the two are tied."""
        return (self.lm_head or self.embed_tokens).weight[...]
