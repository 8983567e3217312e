"""The parts of the decoder: projections and adapters, norms, rotary embedding, attention with its cache, MLP, layer.

Weights keep Hugging Face's orientation ([out, in]), and modules its names, so that loading and saving only moves bytes.

Axes: B = rows, L = positions, M = slots of keys (L, or the cache's), D = hidden size, V = vocabulary,
N = query heads, K = key-value heads, H = head dimension, R = rotary dimensions of a head.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from oddsmill.train.attention.attention import attention
from oddsmill.train.attention.mask import Keys
from oddsmill.train.attention.mechanism import Mechanism
from oddsmill.train.model.hf_config import DecoderConfig

# Streams tell the dropout masks of one place in a layer from those of another; adapters count theirs from 0.
_ATTENTION, _AFTER_ATTENTION, _AFTER_MLP = 1000, 1001, 1002


class PerLayerInputs(NamedTuple):
    """The inputs of one layer that differ from layer to layer; stacked on a leading axis for the scan.

    Attributes:
      frequencies: [R / 2] of the rotary embedding, radians a position.
      window: int32 scalar, as in `attention`; None where no layer has one.
      dropout: [B] keys; None where nothing is dropped.
    """

    frequencies: jax.Array
    window: jax.Array | None
    dropout: jax.Array | None


class Cache(NamedTuple):
    """Keys and values of the tokens so far, of all layers ([layers, …]) or of one.

    Attributes:
      key, value: [layers, B, M, K, H] in the compute dtype.
      used: [layers] int32, slots that are filled.
    """

    key: jax.Array
    value: jax.Array
    used: jax.Array


def empty_cache(config: DecoderConfig, *, batch: int, slots: int, dtype: jnp.dtype) -> Cache:
    """A cache of all layers with room for `slots` tokens a row."""
    shape = (config.num_hidden_layers, batch, slots, config.num_key_value_heads, config.head_dim)
    return Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros(config.num_hidden_layers, jnp.int32))


def drop(x: jax.Array, keys_B: jax.Array | None, *, stream: int, rate: float) -> jax.Array:
    """Dropout whose mask follows from a row's key, so that it is the same in any batch, device or micro-batch.

    Args:
      x: [B, ...].
      keys_B: one key a row, for this layer and step; None leaves x as it is.
      stream: the place in the layer.
      rate: the probability with which an element becomes 0; the others are divided by its complement.

    Returns: an array like `x`.
    """
    if keys_B is None or not rate:
        return x
    streams_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, stream)
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(streams_B)
    return jnp.where(kept, x / (1 - rate), 0)


def rotate(x_BLNH: jax.Array, position_BL: jax.Array, frequencies: jax.Array) -> jax.Array:
    """Rotary embedding in the half-split form that Hugging Face checkpoints use; angles in float32 or wider.

    Args:
      frequencies: [R / 2]; the first R dimensions of a head are rotated, the others stay.

    Source: Su et al. 2021 (arXiv:2104.09864).
    """
    acc_dtype = jnp.promote_types(x_BLNH.dtype, jnp.float32)
    angles = position_BL[:, :, None, None].astype(acc_dtype) * frequencies.astype(acc_dtype)
    rotary_dim = 2 * frequencies.shape[-1]
    rotary, passed = jnp.split(x_BLNH.astype(acc_dtype), [rotary_dim], axis=-1)
    first, second = jnp.split(rotary, 2, axis=-1)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin, passed], axis=-1)
    return rotated.astype(x_BLNH.dtype)


class LoRA(nnx.Module):
    """An adapter: its linear layer adds scaling * dropout(x) A^T B^T to its result. train/model/lora.py makes them.

    Args:
      lora_A: [rank, in].
      lora_B: [out, rank].
      dropout, stream: rate and stream of `drop`, for x.
    """

    def __init__(self, lora_A: jax.Array, lora_B: jax.Array, *, scaling: float, dropout: float, stream: int):
        self.lora_A, self.lora_B = nnx.Param(lora_A), nnx.Param(lora_B)
        self.scaling, self.dropout, self.stream = scaling, dropout, stream

    def __call__(self, x: jax.Array, dropout_B: jax.Array | None) -> jax.Array:
        x = drop(x, dropout_B, stream=self.stream, rate=self.dropout)
        narrow = jnp.einsum("...i,ri->...r", x, self.lora_A[...].astype(x.dtype))
        return self.scaling * jnp.einsum("...r,or->...o", narrow, self.lora_B[...].astype(x.dtype))


class Linear(nnx.Module):
    """y = x W^T + b, weight [out, in]; plus what the adapter adds, where there is one."""

    def __init__(self, in_dim: int, out_dim: int, *, bias: bool, std: float, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.weight = nnx.Param(jax.random.normal(rngs.params(), (out_dim, in_dim), dtype) * std)
        self.bias = nnx.Param(jnp.zeros(out_dim, dtype)) if bias else None
        self.adapter: LoRA | None = None

    def __call__(self, x: jax.Array, dropout_B: jax.Array | None = None) -> jax.Array:
        y = jnp.einsum("...i,oi->...o", x, self.weight[...].astype(x.dtype))
        if self.adapter is not None:
            y += self.adapter(x, dropout_B)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class RMSNorm(nnx.Module):
    """x / rms(x) * weight, with the mean square in float32 or wider.

    With an offset it is x / rms(x) * (1 + weight), computed in float32 or wider to the end.
    """

    def __init__(self, dim: int, config: DecoderConfig, *, dtype: jnp.dtype):
        self.weight = nnx.Param(jnp.zeros(dim, dtype) if config.norm_offset else jnp.ones(dim, dtype))
        self.eps = config.rms_norm_eps
        self.has_offset = config.norm_offset

    def __call__(self, x: jax.Array) -> jax.Array:
        acc = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        normed = acc * jax.lax.rsqrt(jnp.mean(acc * acc, axis=-1, keepdims=True) + self.eps)
        if self.has_offset:
            return (normed * (1 + self.weight[...].astype(acc.dtype))).astype(x.dtype)
        return normed.astype(x.dtype) * self.weight[...].astype(x.dtype)


class Attention(nnx.Module):
    """Attention with rotary embedding; past keys and values come from a cache, if there is one."""

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

    def _project(self, x_BLD: jax.Array, dropout_B: jax.Array | None) -> list[jax.Array]:
        """Queries [B, L, N, H], keys and values [B, L, K, H], not yet rotated."""
        config, (batch, length, _) = self.config, x_BLD.shape
        if config.fused_projections:
            query, key_value = (h * config.head_dim for h in (config.num_attention_heads, config.num_key_value_heads))
            projected = jnp.split(self.qkv_proj(x_BLD, dropout_B), [query, query + key_value], axis=-1)
        else:
            projected = [linear(x_BLD, dropout_B) for linear in (self.q_proj, self.k_proj, self.v_proj)]
        return [x.reshape(batch, length, -1, config.head_dim) for x in projected]

    def _drop_weights(self, dropout_B: jax.Array | None) -> Callable[[jax.Array], jax.Array] | None:
        rate = self.config.attention_dropout
        return partial(drop, keys_B=dropout_B, stream=_ATTENTION, rate=rate) if rate and dropout_B is not None else None

    def __call__(
        self, x_BLD: jax.Array, position_BL: jax.Array, keys: Keys, per_layer: PerLayerInputs, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        batch, length, _ = x_BLD.shape
        query, key, value = self._project(x_BLD, per_layer.dropout)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = (rotate(x, position_BL, per_layer.frequencies) for x in (query, key))
        first_query: jax.Array | int = 0
        if cache is not None:
            first_query = cache.used
            key, value = (
                jax.lax.dynamic_update_slice_in_dim(past, new, first_query, axis=1)
                for past, new in ((cache.key, key), (cache.value, value))
            )
            cache = Cache(key=key, value=value, used=cache.used + length)
        output = attention(
            query,
            key,
            value,
            position_BL,
            keys,
            scale=self.config.attention_scale,
            first_query=first_query,
            window=per_layer.window,
            softcap=self.config.attn_logit_softcapping,
            drop=self._drop_weights(per_layer.dropout),
            mechanism=self.mechanism,
        )
        return self.o_proj(output.reshape(batch, length, -1), per_layer.dropout), cache


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
    """Attention and MLP, each with a residual connection around it."""

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
        self, x_BLD: jax.Array, position_BL: jax.Array, keys: Keys, per_layer: PerLayerInputs, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        attended, cache = self.self_attn(self.input_layernorm(x_BLD), position_BL, keys, per_layer, cache)
        if self.post_norms:  # post_attention_layernorm is then a norm of attention's output, else of the MLP's input
            x_BLD = x_BLD + self.post_attention_layernorm(attended)
            mlp_output = self.mlp(self.pre_feedforward_layernorm(x_BLD), per_layer.dropout)
            return x_BLD + self.post_feedforward_layernorm(mlp_output), cache
        x_BLD = x_BLD + drop(attended, per_layer.dropout, stream=_AFTER_ATTENTION, rate=self.resid_pdrop)
        mlp_output = self.mlp(self.post_attention_layernorm(x_BLD), per_layer.dropout)
        return x_BLD + drop(mlp_output, per_layer.dropout, stream=_AFTER_MLP, rate=self.resid_pdrop), cache


class Embedding(nnx.Module):
    """A [V, D] weight: the embedding, or the head where it is not tied. The row `zero_row` is initialised to zeros."""

    def __init__(self, config: DecoderConfig, *, zero_row: int | None = None, dtype: jnp.dtype, rngs: nnx.Rngs):
        shape = (config.vocab_size, config.hidden_size)
        weight = jax.random.normal(rngs.params(), shape, dtype) * config.initializer_range
        self.weight = nnx.Param(weight if zero_row is None else weight.at[zero_row].set(0))

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Returns the rows of these tokens, [..., D] in the param dtype; see `rows_of`."""
        return rows_of(self.weight[...], ids)


def rows_of(weight_VD: jax.Array, ids: jax.Array) -> jax.Array:
    """Returns weight_VD[ids], whose gradient is added up in float32 or wider and rounded once.

    In bfloat16 the sum of a frequent token would stop growing at 256 times what one occurrence adds.
    """
    return _rows_of_narrow(weight_VD, ids) if weight_VD.dtype == jnp.bfloat16 else weight_VD[ids]


@jax.custom_vjp
def _rows_of_narrow(weight_VD: jax.Array, ids: jax.Array) -> jax.Array:
    return weight_VD[ids]


def _forward(weight_VD: jax.Array, ids: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return weight_VD[ids], (weight_VD, ids)


def _backward(residuals: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, None]:
    weight_VD, ids = residuals
    sums_VD = jnp.zeros(weight_VD.shape, jnp.float32).at[ids].add(gradient.astype(jnp.float32))
    return sums_VD.astype(weight_VD.dtype), None


_rows_of_narrow.defvjp(_forward, _backward)
