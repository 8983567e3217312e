"""Attention block by block in plain JAX, on any device.

The scores of one block of queries and one of keys are held at once, blocks that the mask empties are passed over, and
scores are computed again for the gradient. Rows are taken one after another, as what is passed over differs from row
to row.

Sources: online softmax, Milakov and Gimelshein 2018 (arXiv:1805.02867); FlashAttention, Dao et al. 2022
(arXiv:2205.14135); FlashAttention-2, Dao 2023 (arXiv:2307.08691), Algorithms 1 and 2, whose names are taken: `m` is the
running maximum of a query's scores, `l` the running sum of their exponentials, `acc` the output before its division by
`l`, `lse` = m + log(l), `delta` the dot product of an output and its gradient.

Axes: B = rows, L = positions of a row, N = query heads, K = key-value heads, G = query heads of each, H = head
dimension; Q = queries of a block, P = keys of a block, S = blocks.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from oddsmill.train.attention.mask import seen_blocks, visible
from oddsmill.train.attention.mechanism import Mechanism, WholeRows
from oddsmill.train.attention.vanilla import softcap_vjp, softcapped

# Queries and keys of a block. Smaller blocks leave out more of packed pairs; these are the fastest on CPUs.
BLOCK = 64


class _Settings(NamedTuple):
    scale: float
    softcap: float | None
    block: int


class _Row(NamedTuple):
    """A row, with the positions of each head together; or, mapped over, rows."""

    query_KGLH: jax.Array
    key_KLH: jax.Array
    value_KLH: jax.Array


class _MaskInputs(NamedTuple):
    position_L: jax.Array
    end_L: jax.Array
    window: jax.Array | None


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


def _visits(mask: _MaskInputs, block: int) -> _Visits:
    seen_SS = seen_blocks(mask.position_L, mask.end_L, mask.window, block)
    query_block_S = jnp.arange(seen_SS.shape[0], dtype=jnp.int32)
    return _Visits(query_block_S, jnp.argsort(~seen_SS, axis=-1), seen_SS.sum(-1, dtype=jnp.int32))


def _slice(array: jax.Array, block_index: jax.Array, axis: int, block: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(array, block_index * block, block, axis)


def _mask(mask: _MaskInputs, query_block: jax.Array, key_block: jax.Array, block: int) -> jax.Array:
    """[Q, P] bool."""
    index = jnp.arange(block)
    query_position, key_position = (_slice(mask.position_L, of, 0, block) for of in (query_block, key_block))
    return visible(
        (query_block * block + index)[:, None],
        (key_block * block + index)[None, :],
        _slice(mask.end_L, key_block, 0, block)[None, :],
        distance=query_position[:, None] - key_position[None, :],
        window=mask.window,
    )


def _scores(query_KGQH: jax.Array, key_KPH: jax.Array, settings: _Settings) -> jax.Array:
    """[K, G, Q, P] in float32 or wider."""
    acc_dtype = jnp.promote_types(query_KGQH.dtype, jnp.float32)
    scores = jnp.einsum("kgqh,kph->kgqp", query_KGQH, key_KPH, preferred_element_type=acc_dtype)
    return softcapped(scores * settings.scale, settings.softcap)


def _forward_row(row: _Row, mask: _MaskInputs, settings: _Settings) -> tuple[jax.Array, jax.Array]:
    """Output [K, G, L, H] and the log-sum-exp of the scores [K, G, L]."""
    key_heads, groups, length, dim = row.query_KGLH.shape
    block = settings.block
    acc_dtype = jnp.promote_types(row.query_KGLH.dtype, jnp.float32)
    mask_value = jnp.finfo(acc_dtype).min

    def one_query_block(visits: _Visits) -> tuple[jax.Array, jax.Array]:
        query_block, key_blocks_S, count = visits
        query_KGQH = _slice(row.query_KGLH, query_block, 2, block)

        def one_key_block(visit: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            m_KGQ, l_KGQ, acc_KGQH = carry
            key_block = key_blocks_S[visit]
            key, value = (_slice(array, key_block, 1, block) for array in (row.key_KLH, row.value_KLH))
            is_visible = _mask(mask, query_block, key_block, block)
            scores = jnp.where(is_visible, _scores(query_KGQH, key, settings), mask_value)
            new_m_KGQ = jnp.maximum(m_KGQ, scores.max(-1))
            # A query that has seen nothing yet weighs all keys alike; the first key that it sees rescales that to zero.
            weights = jnp.exp(scores - new_m_KGQ[..., None])
            rescale_KGQ = jnp.exp(m_KGQ - new_m_KGQ)
            added = jnp.einsum("kgqp,kph->kgqh", weights.astype(value.dtype), value, preferred_element_type=acc_dtype)
            return new_m_KGQ, l_KGQ * rescale_KGQ + weights.sum(-1), acc_KGQH * rescale_KGQ[..., None] + added

        shape = (key_heads, groups, block)
        start = (
            jnp.full(shape, mask_value, acc_dtype),
            jnp.zeros(shape, acc_dtype),
            jnp.zeros((*shape, dim), acc_dtype),
        )
        m_KGQ, l_KGQ, acc_KGQH = jax.lax.fori_loop(0, count, one_key_block, start)
        l_KGQ = jnp.maximum(l_KGQ, jnp.finfo(acc_dtype).tiny)  # a block of padding alone visits none
        return (acc_KGQH / l_KGQ[..., None]).astype(row.value_KLH.dtype), m_KGQ + jnp.log(l_KGQ)

    output, lse = jax.lax.map(one_query_block, _visits(mask, block))
    return jnp.moveaxis(output, 0, 2).reshape(row.query_KGLH.shape), jnp.moveaxis(lse, 0, 2).reshape(-1, groups, length)


class _Saved(NamedTuple):
    """Arrays of a row, or of rows, that the backward pass needs from the forward pass."""

    row: _Row
    mask: _MaskInputs
    output_KGLH: jax.Array
    lse_KGL: jax.Array


def _backward_row(saved: _Saved, d_output_KGLH: jax.Array, settings: _Settings) -> _Row:
    """Gradients of queries, keys and values."""
    row, mask, output_KGLH, lse_KGL = saved
    block, acc_dtype = settings.block, lse_KGL.dtype
    delta_KGL = jnp.sum(d_output_KGLH.astype(acc_dtype) * output_KGLH.astype(acc_dtype), axis=-1)

    def one_query_block(carry: tuple[jax.Array, jax.Array], visits: _Visits) -> tuple:
        query_block, key_blocks_S, count = visits
        query, d_output, lse, delta = (
            _slice(array, query_block, 2, block)
            for array in (row.query_KGLH, d_output_KGLH, lse_KGL[..., None], delta_KGL[..., None])
        )

        def one_key_block(visit: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            d_query, d_key, d_value = carry
            key_block = key_blocks_S[visit]
            key, value = (_slice(array, key_block, 1, block) for array in (row.key_KLH, row.value_KLH))
            scores = _scores(query, key, settings)
            weights = jnp.where(_mask(mask, query_block, key_block, block), jnp.exp(scores - lse), 0)
            d_weights = jnp.einsum("kgqh,kph->kgqp", d_output, value, preferred_element_type=acc_dtype)
            d_scores = softcap_vjp(weights * (d_weights - delta), scores, settings.softcap) * settings.scale
            d_scores, weights = d_scores.astype(query.dtype), weights.astype(query.dtype)
            d_query += jnp.einsum("kgqp,kph->kgqh", d_scores, key, preferred_element_type=acc_dtype)
            to_key = jnp.einsum("kgqp,kgqh->kph", d_scores, query, preferred_element_type=acc_dtype)
            to_value = jnp.einsum("kgqp,kgqh->kph", weights, d_output, preferred_element_type=acc_dtype)
            d_key, d_value = (
                jax.lax.dynamic_update_slice_in_dim(
                    total, _slice(total, key_block, 1, block) + added, key_block * block, 1
                )
                for total, added in ((d_key, to_key), (d_value, to_value))
            )
            return d_query, d_key, d_value

        start = (jnp.zeros(query.shape, acc_dtype), *carry)
        result: tuple[jax.Array, ...] = jax.lax.fori_loop(0, count, one_key_block, start)
        return result[1:], result[0].astype(query.dtype)

    zeros = jnp.zeros(row.key_KLH.shape, acc_dtype), jnp.zeros(row.value_KLH.shape, acc_dtype)
    by_block: jax.Array
    (d_key, d_value), by_block = jax.lax.scan(one_query_block, zeros, _visits(mask, block))
    d_query = jnp.moveaxis(by_block, 0, 2).reshape(row.query_KGLH.shape)
    return _Row(d_query, d_key.astype(row.key_KLH.dtype), d_value.astype(row.value_KLH.dtype))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _blockwise(rows: _Row, masks: _MaskInputs, settings: _Settings) -> jax.Array:
    return _forward(rows, masks, settings)[0]


def _forward(rows: _Row, masks: _MaskInputs, settings: _Settings) -> tuple[jax.Array, _Saved]:
    output, lse = jax.lax.map(lambda one: _forward_row(one[0], one[1], settings), (rows, masks))
    return output, _Saved(rows, masks, output, lse)


def _backward(settings: _Settings, saved: _Saved, d_output_BKGLH: jax.Array) -> tuple[_Row, None]:
    return jax.lax.map(lambda one: _backward_row(one[0], one[1], settings), (saved, d_output_BKGLH)), None


_blockwise.defvjp(_forward, _backward)


def blockwise_attention(rows: WholeRows, scale: float, softcap: float | None, *, block: int = BLOCK) -> jax.Array:
    """`Mechanism.compute`, in memory linear in L, a multiple of `block`."""
    query_BLNH, key_BLKH, value_BLKH, keys, window = rows
    batch, length, heads, dim = query_BLNH.shape
    grouped = query_BLNH.reshape(batch, length, key_BLKH.shape[2], -1, dim)
    by_head = _Row(jnp.moveaxis(grouped, 1, 3), jnp.moveaxis(key_BLKH, 1, 2), jnp.moveaxis(value_BLKH, 1, 2))
    masks = _MaskInputs(keys.position, keys.end, None if window is None else jnp.broadcast_to(window, batch))
    output = _blockwise(by_head, masks, _Settings(scale, softcap, block))
    return jnp.moveaxis(output, 3, 1).reshape(batch, length, heads, dim)


# A row of one block would be dense.
XLA = Mechanism(name="xla", compute=blockwise_attention, length_multiple=BLOCK, shortest_row=2 * BLOCK)
