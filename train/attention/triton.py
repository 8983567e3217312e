"""The programs of train/attention/pallas.py: what one of them does with its blocks.

Axes: Q = queries of a block, P = keys of a block, both `BLOCK`; H = head dimension, a power of two. Arguments are
references to memory; those that hold a whole row are indexed by `_slots`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from oddsmill.train.attention.softcap import softcapped, through_softcap

BLOCK = 64


class KernelMask(NamedTuple):
    """[B, L] int32 each, and `window` [1] int32; positions and window are None where no layer has a window."""

    end: Any
    position: Any
    window: Any


class Scoring(NamedTuple):
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


def _scores(query_QH: jax.Array, key_PH: jax.Array, scoring: Scoring) -> jax.Array:
    scores_QP = _dot(query_QH, key_PH, (1, 1)) * scoring.scale
    return softcapped(scores_QP, scoring.softcap)


def _visible(mask: KernelMask, query_block: Any, key_block: Any) -> jax.Array:
    """[Q, P] bool."""
    within = jax.lax.broadcasted_iota(jnp.int32, (BLOCK,), 0)
    query_index_Q1, key_index_1P = (query_block * BLOCK + within)[:, None], (key_block * BLOCK + within)[None, :]
    seen_QP = (key_index_1P <= query_index_Q1) & (query_index_Q1 < mask.end[_slots(key_block)][None, :])
    if mask.position is not None:
        back_QP = mask.position[_slots(query_block)][:, None] - mask.position[_slots(key_block)][None, :]
        seen_QP &= back_QP < mask.window[0]
    return seen_QP


def forward_kernel(
    query: Any, key: Any, value: Any, mask: KernelMask, first: Any, output: Any, lse: Any, *, scoring: Scoring
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
    dot_Q: jax.Array, seen_QP: jax.Array, scoring: Scoring,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """The softmax's weights, and the slope of the loss in the dot products of queries and keys; [Q, P] each."""
    scores_QP = _scores(query_QH, key_PH, scoring)
    weights_QP = jnp.where(seen_QP, jnp.exp(scores_QP - lse_Q[:, None]), 0.0)
    slope_QP = weights_QP * (_dot(slope_QH, value_PH, (1, 1)) - dot_Q[:, None])
    slope_QP = through_softcap(slope_QP, scores_QP, scoring.softcap) * scoring.scale
    return weights_QP.astype(query_QH.dtype), slope_QP.astype(query_QH.dtype)


def query_gradient_kernel(
    query: Any, key: Any, value: Any, slope: Any, lse: Any, dot: Any, mask: KernelMask, first: Any, gradient: Any, *,
    scoring: Scoring,
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


def key_gradients_kernel(
    query: Any, key: Any, value: Any, slope: Any, lse: Any, dot: Any, mask: KernelMask, after: Any, key_gradient: Any,
    value_gradient: Any, *, scoring: Scoring,
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
