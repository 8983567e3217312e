"""Attention block by block in plain JAX, on any device.

Scores of one block of queries and one of keys are held at once, blocks that the mask empties are passed over, and
scores are made again for the gradient. Source of the scheme: Dao 2023 (FlashAttention-2, arXiv:2307.08691),
Algorithms 1 and 2. Rows are taken one after another: what is passed over differs from row to row.

Axes: B = rows, L = positions of a row, K = key-value heads, G = query heads of each, H = head dimension; Q = queries
of a block, P = keys of a block, S = blocks.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from oddsmill.train.attention.mask import Keys, seen_blocks, visible
from oddsmill.train.attention.softcap import softcapped, through_softcap

# Queries and keys of a block. Of packed pairs smaller blocks leave more out; these are the fastest on CPUs.
BLOCK = 64


def can_be_blockwise(length: int) -> bool:
    """Whether rows of this length are blocks; a single one is dense already."""
    return length % BLOCK == 0 and length > BLOCK


class _Row(NamedTuple):
    """A row, with the positions of each head together; or, mapped over, rows."""

    query_KGLH: jax.Array
    key_KLH: jax.Array
    value_KLH: jax.Array
    position_L: jax.Array
    end_L: jax.Array
    window: jax.Array | None


def _block(array: jax.Array, index: jax.Array, axis: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(array, index * BLOCK, BLOCK, axis)


class _Visits(NamedTuple):
    """The blocks of keys that each block of queries visits.

    Attributes:
      query_block_S: int32, 0, 1, 2 ...
      key_blocks_SS: int32, those with a key that a query of the block may see, and then the others.
      count_S: int32, how many are visited.
    """

    query_block_S: jax.Array
    key_blocks_SS: jax.Array
    count_S: jax.Array


def _visits(row: _Row) -> _Visits:
    seen_SS = seen_blocks(row.position_L, row.end_L, row.window, BLOCK)
    query_block_S = jnp.arange(seen_SS.shape[0], dtype=jnp.int32)
    return _Visits(query_block_S, jnp.argsort(~seen_SS, axis=-1), seen_SS.sum(-1, dtype=jnp.int32))


def _mask(row: _Row, query_block: jax.Array, key_block: jax.Array) -> jax.Array:
    """[Q, P] bool."""
    index, position, end = jnp.arange(BLOCK), row.position_L[None], row.end_L[None]
    keys = Keys(_block(position, key_block, 1), _block(end, key_block, 1))
    return visible(
        query_block * BLOCK + index, _block(position, query_block, 1), key_block * BLOCK + index, keys, row.window
    )[0]


def _scores(query_KGQH: jax.Array, key_KPH: jax.Array, scale: float, softcap: float | None) -> jax.Array:
    """[K, G, Q, P] in float32 or wider."""
    wide = jnp.promote_types(query_KGQH.dtype, jnp.float32)
    scores = jnp.einsum("kgqh,kph->kgqp", query_KGQH, key_KPH, preferred_element_type=wide)
    return softcapped(scores * scale, softcap)


def _forward_row(row: _Row, scale: float, softcap: float | None) -> tuple[jax.Array, jax.Array]:
    """Output [K, G, L, H] and the log-sum-exp of the scores [K, G, L], by a running softmax."""
    key_heads, groups, length, dim = row.query_KGLH.shape
    wide = jnp.promote_types(row.query_KGLH.dtype, jnp.float32)
    lowest = jnp.finfo(wide).min

    def one_query_block(visits: _Visits) -> tuple[jax.Array, jax.Array]:
        query_block, key_blocks_S, count = visits
        query_KGQH = _block(row.query_KGLH, query_block, 2)

        def one_key_block(visit: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            highest, total, mixed = carry
            key, value = (_block(array, key_blocks_S[visit], 1) for array in (row.key_KLH, row.value_KLH))
            mask = _mask(row, query_block, key_blocks_S[visit])
            scores = jnp.where(mask, _scores(query_KGQH, key, scale, softcap), lowest)
            new_highest = jnp.maximum(highest, scores.max(-1))
            # A query that has seen nothing yet weighs all alike; what it sees first shrinks that to zero.
            weights = jnp.exp(scores - new_highest[..., None])
            shrink = jnp.exp(highest - new_highest)
            added = jnp.einsum("kgqp,kph->kgqh", weights.astype(value.dtype), value, preferred_element_type=wide)
            return new_highest, total * shrink + weights.sum(-1), mixed * shrink[..., None] + added

        shape = (key_heads, groups, BLOCK)
        start = (jnp.full(shape, lowest, wide), jnp.zeros(shape, wide), jnp.zeros((*shape, dim), wide))
        highest, total, mixed = jax.lax.fori_loop(0, count, one_key_block, start)
        total = jnp.maximum(total, jnp.finfo(wide).tiny)  # a block of padding alone visits none
        return (mixed / total[..., None]).astype(row.value_KLH.dtype), highest + jnp.log(total)

    mixed, lse = jax.lax.map(one_query_block, _visits(row))
    return jnp.moveaxis(mixed, 0, 2).reshape(row.query_KGLH.shape), jnp.moveaxis(lse, 0, 2).reshape(-1, groups, length)


class _Saved(NamedTuple):
    """What the backward pass of a row takes; or of rows."""

    row: _Row
    output_KGLH: jax.Array
    lse_KGL: jax.Array


def _backward_row(saved: _Saved, slope_KGLH: jax.Array, scale: float, softcap: float | None) -> _Row:
    """Gradients of queries, keys and values."""
    row, output_KGLH, lse_KGL = saved
    wide = lse_KGL.dtype
    dot_KGL = jnp.sum(slope_KGLH.astype(wide) * output_KGLH.astype(wide), axis=-1)

    def one_query_block(carry: tuple[jax.Array, jax.Array], visits: _Visits) -> tuple:
        query_block, key_blocks_S, count = visits
        query, slope, lse, dot = (
            _block(array, query_block, 2)
            for array in (row.query_KGLH, slope_KGLH, lse_KGL[..., None], dot_KGL[..., None])
        )

        def one_key_block(visit: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            query_gradient, key_gradient, value_gradient = carry
            key_block = key_blocks_S[visit]
            key, value = (_block(array, key_block, 1) for array in (row.key_KLH, row.value_KLH))
            scores = _scores(query, key, scale, softcap)
            weights = jnp.where(_mask(row, query_block, key_block), jnp.exp(scores - lse), 0)
            weights_slope = jnp.einsum("kgqh,kph->kgqp", slope, value, preferred_element_type=wide)
            scores_slope = through_softcap(weights * (weights_slope - dot), scores, softcap) * scale
            scores_slope, weights = scores_slope.astype(query.dtype), weights.astype(query.dtype)
            query_gradient += jnp.einsum("kgqp,kph->kgqh", scores_slope, key, preferred_element_type=wide)
            to_key = jnp.einsum("kgqp,kgqh->kph", scores_slope, query, preferred_element_type=wide)
            to_value = jnp.einsum("kgqp,kgqh->kph", weights, slope, preferred_element_type=wide)
            key_gradient, value_gradient = (
                jax.lax.dynamic_update_slice_in_dim(total, _block(total, key_block, 1) + part, key_block * BLOCK, 1)
                for total, part in ((key_gradient, to_key), (value_gradient, to_value))
            )
            return query_gradient, key_gradient, value_gradient

        start = (jnp.zeros(query.shape, wide), *carry)
        result: tuple[jax.Array, ...] = jax.lax.fori_loop(0, count, one_key_block, start)
        return result[1:], result[0].astype(query.dtype)

    zeros = jnp.zeros(row.key_KLH.shape, wide), jnp.zeros(row.value_KLH.shape, wide)
    by_block: jax.Array
    (key_gradient, value_gradient), by_block = jax.lax.scan(one_query_block, zeros, _visits(row))
    query_gradient = jnp.moveaxis(by_block, 0, 2).reshape(row.query_KGLH.shape)
    key_gradient, value_gradient = key_gradient.astype(row.key_KLH.dtype), value_gradient.astype(row.value_KLH.dtype)
    none: Any = None
    return _Row(query_gradient, key_gradient, value_gradient, position_L=none, end_L=none, window=none)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _blockwise(rows: _Row, scale: float, softcap: float | None) -> jax.Array:
    return _forward(rows, scale, softcap)[0]


def _forward(rows: _Row, scale: float, softcap: float | None) -> tuple[jax.Array, _Saved]:
    output, lse = jax.lax.map(lambda row: _forward_row(row, scale, softcap), rows)
    return output, _Saved(rows, output, lse)


def _backward(scale: float, softcap: float | None, saved: _Saved, slope_BKGLH: jax.Array) -> tuple[_Row]:
    return (jax.lax.map(lambda given: _backward_row(given[0], given[1], scale, softcap), (saved, slope_BKGLH)),)


_blockwise.defvjp(_forward, _backward)


def blockwise_attention(
    query_BLNH: jax.Array,
    key_BLKH: jax.Array,
    value_BLKH: jax.Array,
    keys: Keys,
    window: jax.Array | None,
    scale: float,
    softcap: float | None,
) -> jax.Array:
    """`attention` of whole rows (L = M, a multiple of `BLOCK`); [B, L, N, H]. Memory is linear in L."""
    batch, length, heads, dim = query_BLNH.shape
    grouped = query_BLNH.reshape(batch, length, key_BLKH.shape[2], -1, dim)
    rows = _Row(
        jnp.moveaxis(grouped, 1, 3),
        jnp.moveaxis(key_BLKH, 1, 2),
        jnp.moveaxis(value_BLKH, 1, 2),
        keys.position,
        keys.end,
        None if window is None else jnp.broadcast_to(window, batch),
    )
    mixed = _blockwise(rows, scale, softcap)
    return jnp.moveaxis(mixed, 3, 1).reshape(batch, length, heads, dim)
