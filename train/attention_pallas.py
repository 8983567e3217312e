"""Attention by Triton kernels of our own, on GPUs, with the rule of the one-row layout inside.

Blocks that the rule empties are passed over. Source of the scheme: Dao 2023 (FlashAttention-2, arXiv:2307.08691),
Algorithms 1 and 2; gradients of a block of queries and of a block of keys are made by two kernels, so that none adds to
what another one writes.

Axes: B = rows, L = positions of a row, N = query heads, K = key-value heads, G = N / K, H = head dimension, a power of
two; Q = queries of a block, P = keys of a block, both `BLOCK`; C = L / `BLOCK`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from train.attention_mask import Keys, after_query_blocks, first_key_blocks

BLOCK = 64


class _Mask(NamedTuple):
    """[B, L] int32 each, and `window` [1] int32; positions and window are None where no layer has a window."""

    end: Any
    position: Any
    window: Any


class _Scoring(NamedTuple):
    scale: float
    softcap: float | None


def _dot(a: jax.Array, b: jax.Array, contracted: tuple[int, int]) -> jax.Array:
    wide = jnp.promote_types(a.dtype, jnp.float32)
    # Triton would round float32 to tf32.
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    dims = (((contracted[0],), (contracted[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dims, precision=precision, preferred_element_type=wide)


def _slots(block: Any) -> Any:
    return pl.ds(block * BLOCK, BLOCK)


def _scores(query_QH: jax.Array, key_PH: jax.Array, scoring: _Scoring) -> jax.Array:
    scores_QP = _dot(query_QH, key_PH, (1, 1)) * scoring.scale
    return scores_QP if scoring.softcap is None else scoring.softcap * jnp.tanh(scores_QP / scoring.softcap)


def _visible(mask: _Mask, query_block: Any, key_block: Any) -> jax.Array:
    """[Q, P] bool."""
    within = jax.lax.broadcasted_iota(jnp.int32, (BLOCK,), 0)
    query_index_Q1, key_index_1P = (query_block * BLOCK + within)[:, None], (key_block * BLOCK + within)[None, :]
    seen_QP = (key_index_1P <= query_index_Q1) & (query_index_Q1 < mask.end[_slots(key_block)][None, :])
    if mask.position is not None:
        back_QP = mask.position[_slots(query_block)][:, None] - mask.position[_slots(key_block)][None, :]
        seen_QP &= back_QP < mask.window[0]
    return seen_QP


def _forward_kernel(
    query: Any, key: Any, value: Any, mask: _Mask, first: Any, output: Any, lse: Any, *, scoring: _Scoring
) -> None:
    query_block = pl.program_id(2)
    query_QH = query[...]
    wide = lse.dtype
    lowest = float(jnp.finfo(wide).min)

    def one_key_block(key_block: Any, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        highest_Q, total_Q, mixed_QH = carry
        seen_QP = _visible(mask, query_block, key_block)
        scores_QP = jnp.where(seen_QP, _scores(query_QH, key[_slots(key_block)], scoring), lowest)
        new_highest_Q = jnp.maximum(highest_Q, jnp.max(scores_QP, axis=1))
        weights_QP = jnp.where(seen_QP, jnp.exp(scores_QP - new_highest_Q[:, None]), 0.0)
        shrink_Q = jnp.exp(highest_Q - new_highest_Q)
        value_PH = value[_slots(key_block)]
        mixed_QH = mixed_QH * shrink_Q[:, None] + _dot(weights_QP.astype(value_PH.dtype), value_PH, (1, 0))
        return new_highest_Q, total_Q * shrink_Q + jnp.sum(weights_QP, axis=1), mixed_QH

    start = (jnp.full((BLOCK,), lowest, wide), jnp.zeros((BLOCK,), wide), jnp.zeros(query_QH.shape, wide))
    highest_Q, total_Q, mixed_QH = jax.lax.fori_loop(first[query_block], query_block + 1, one_key_block, start)
    seen_Q = total_Q > 0
    total_Q = jnp.where(seen_Q, total_Q, 1.0)
    output[...] = (mixed_QH / total_Q[:, None]).astype(output.dtype)
    lse[...] = jnp.where(seen_Q, highest_Q + jnp.log(total_Q), 0.0)


def _slopes(
    query_QH: jax.Array, key_PH: jax.Array, value_PH: jax.Array, slope_QH: jax.Array, lse_Q: jax.Array,
    dot_Q: jax.Array, seen_QP: jax.Array, scoring: _Scoring,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """The softmax's weights, and the slope of the loss in the dot products of queries and keys; [Q, P] each."""
    scores_QP = _scores(query_QH, key_PH, scoring)
    weights_QP = jnp.where(seen_QP, jnp.exp(scores_QP - lse_Q[:, None]), 0.0)
    slope_QP = weights_QP * (_dot(slope_QH, value_PH, (1, 1)) - dot_Q[:, None]) * scoring.scale
    if scoring.softcap is not None:
        slope_QP *= 1 - (scores_QP / scoring.softcap) ** 2
    return weights_QP.astype(query_QH.dtype), slope_QP.astype(query_QH.dtype)


def _query_gradient_kernel(
    query: Any, key: Any, value: Any, slope: Any, lse: Any, dot: Any, mask: _Mask, first: Any, gradient: Any, *,
    scoring: _Scoring,
) -> None:  # fmt: skip
    query_block = pl.program_id(2)
    query_QH, slope_QH, lse_Q, dot_Q = query[...], slope[...], lse[...], dot[...]

    def one_key_block(key_block: Any, gradient_QH: jax.Array) -> jax.Array:
        key_PH, value_PH = key[_slots(key_block)], value[_slots(key_block)]
        seen_QP = _visible(mask, query_block, key_block)
        _, slope_QP = _slopes(query_QH, key_PH, value_PH, slope_QH, lse_Q, dot_Q, seen_QP, scoring)
        return gradient_QH + _dot(slope_QP, key_PH, (1, 0))

    start = jnp.zeros(query_QH.shape, lse_Q.dtype)
    total_QH = jax.lax.fori_loop(first[query_block], query_block + 1, one_key_block, start)
    gradient[...] = total_QH.astype(gradient.dtype)


def _key_gradients_kernel(
    query: Any, key: Any, value: Any, slope: Any, lse: Any, dot: Any, mask: _Mask, after: Any, key_gradient: Any,
    value_gradient: Any, *, scoring: _Scoring,
) -> None:  # fmt: skip
    key_block = pl.program_id(2)
    key_PH, value_PH = key[...], value[...]

    def one_query_block(head: Any, query_block: Any, totals: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        queries = _slots(query_block)
        query_QH, slope_QH = query[queries, head], slope[queries, head]
        seen_QP = _visible(mask, query_block, key_block)
        weights_QP, slope_QP = _slopes(
            query_QH, key_PH, value_PH, slope_QH, lse[head, queries], dot[head, queries], seen_QP, scoring
        )
        return totals[0] + _dot(slope_QP, query_QH, (0, 0)), totals[1] + _dot(weights_QP, slope_QH, (0, 0))

    def one_head(head: Any, totals: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        return jax.lax.fori_loop(key_block, after[key_block], partial(one_query_block, head), totals)

    zeros_PH = jnp.zeros(key_PH.shape, lse.dtype)
    to_key_PH, to_value_PH = jax.lax.fori_loop(0, query.shape[1], one_head, (zeros_PH, zeros_PH))
    key_gradient[...] = to_key_PH.astype(key_gradient.dtype)
    value_gradient[...] = to_value_PH.astype(value_gradient.dtype)


def _call(
    kernel: Callable[..., None], inputs: Any, in_specs: Any, out_specs: Any, out_shape: Any, grid: Any, interpret: bool
) -> Any:
    call = pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=out_shape,
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
    )
    return call(*inputs)


class _Layout(NamedTuple):
    """Which part of an array a program sees: that of row b, head n and block c of the grid [B, heads, C]."""

    length: int
    groups: int
    dim: int

    @property
    def by_row(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.length), lambda b, n, c: (b, 0))

    @property
    def bounds(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.length // BLOCK), lambda b, n, c: (b, 0))

    @property
    def block_of_head(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, BLOCK, None, self.dim), lambda b, n, c: (b, c, n, 0))

    @property
    def number_of_head(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, BLOCK), lambda b, n, c: (b, n, c))

    @property
    def row_of_key_head(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.length, None, self.dim), lambda b, n, c: (b, 0, n // self.groups, 0))

    @property
    def row_of_groups(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.length, self.groups, self.dim), lambda b, k, c: (b, 0, k, 0))

    @property
    def numbers_of_groups(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.groups, self.length), lambda b, k, c: (b, k, 0))

    def mask(self, mask: _Mask) -> _Mask:
        has_window = mask.position is not None
        window = pl.BlockSpec((1,), lambda b, n, c: (0,))
        return _Mask(self.by_row, self.by_row if has_window else None, window if has_window else None)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def pallas_attention(
    query_BLNH: jax.Array,
    key_BLKH: jax.Array,
    value_BLKH: jax.Array,
    keys: Keys,
    window: jax.Array | None,
    scale: float,
    softcap: float | None,
    interpret: bool,
) -> jax.Array:
    """`train.attention.attention` of whole rows, L a multiple of `BLOCK`; [B, L, N, H].

    Args:
      interpret: runs the kernel's program on any device, slowly.
    """
    return _forward(query_BLNH, key_BLKH, value_BLKH, keys, window, scale, softcap, interpret)[0]


def _layout(query: jax.Array, key: jax.Array) -> _Layout:
    return _Layout(query.shape[1], query.shape[2] // key.shape[2], query.shape[3])


def _mask(keys: Keys, window: jax.Array | None) -> _Mask:
    return _Mask(keys.end, *((None, None) if window is None else (keys.position, window.reshape(1))))


def _forward(
    query: jax.Array, key: jax.Array, value: jax.Array, keys: Keys, window: jax.Array | None, scale: float,
    softcap: float | None, interpret: bool,
) -> tuple[jax.Array, Any]:  # fmt: skip
    batch, length, heads, _ = query.shape
    layout, mask = _layout(query, key), _mask(keys, window)
    wide = jnp.promote_types(query.dtype, jnp.float32)
    output, lse = _call(
        partial(_forward_kernel, scoring=_Scoring(scale, softcap)),
        (query, key, value, mask, first_key_blocks(keys.end, BLOCK)),
        [layout.block_of_head, layout.row_of_key_head, layout.row_of_key_head, layout.mask(mask), layout.bounds],
        (layout.block_of_head, layout.number_of_head),
        (jax.ShapeDtypeStruct(query.shape, value.dtype), jax.ShapeDtypeStruct((batch, heads, length), wide)),
        (batch, heads, length // BLOCK),
        interpret,
    )
    return output, (query, key, value, keys, window, output, lse)


def _backward(scale: float, softcap: float | None, interpret: bool, saved: Any, slope: jax.Array) -> Any:
    query, key, value, keys, window, output, lse = saved
    batch, length, heads, _ = query.shape
    layout, mask, scoring = _layout(query, key), _mask(keys, window), _Scoring(scale, softcap)
    dot = jnp.einsum("blnh,blnh->bnl", slope.astype(lse.dtype), output.astype(lse.dtype))
    inputs, blocks = (query, key, value, slope, lse, dot, mask), length // BLOCK
    query_gradient = _call(
        partial(_query_gradient_kernel, scoring=scoring),
        (*inputs, first_key_blocks(keys.end, BLOCK)),
        [
            layout.block_of_head, layout.row_of_key_head, layout.row_of_key_head, layout.block_of_head,
            layout.number_of_head, layout.number_of_head, layout.mask(mask), layout.bounds,
        ],
        layout.block_of_head,
        jax.ShapeDtypeStruct(query.shape, query.dtype),
        (batch, heads, blocks),
        interpret,
    )  # fmt: skip
    key_gradient, value_gradient = _call(
        partial(_key_gradients_kernel, scoring=scoring),
        (*inputs, after_query_blocks(keys.end, BLOCK)),
        [
            layout.row_of_groups, layout.block_of_head, layout.block_of_head, layout.row_of_groups,
            layout.numbers_of_groups, layout.numbers_of_groups, layout.mask(mask), layout.bounds,
        ],
        (layout.block_of_head, layout.block_of_head),
        (jax.ShapeDtypeStruct(key.shape, key.dtype), jax.ShapeDtypeStruct(value.shape, value.dtype)),
        (batch, key.shape[2], blocks),
        interpret,
    )  # fmt: skip
    return query_gradient, key_gradient, value_gradient, None, None


pallas_attention.defvjp(_forward, _backward)
