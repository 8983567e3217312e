"""Attention block by block in plain JAX, on any device.

Scores of one block of queries and one of keys are held at once, blocks that the mask empties are passed over, and
scores are made again for the gradient. Source of the scheme: Dao 2023 (FlashAttention-2, arXiv:2307.08691),
Algorithms 1 and 2.

Axes: B = rows, L = positions of a row, K = key-value heads, G = query heads of each, H = head dimension; Q = queries
of a block, P = keys of a block.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from train.attention_mask import Keys, first_key_blocks, visible

# Queries and keys of a block: the smallest size at which matrix units are busy, for the finest steps of the mask.
BLOCK = 128


def scores_of(query: jax.Array, key: jax.Array, scale: float, softcap: float | None) -> jax.Array:
    """[B, K, G, L, M] in float32 or wider, of queries [B, L, K, G, H] and keys [B, M, K, H]."""
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("blkgh,bmkh->bkglm", query, key, preferred_element_type=wide) * scale
    return scores if softcap is None else softcap * jnp.tanh(scores / softcap)


def can_be_blockwise(length: int) -> bool:
    """Whether rows of this length are blocks; a single one is dense already."""
    return length % BLOCK == 0 and length > BLOCK


class _Inputs(NamedTuple):
    query: jax.Array
    key: jax.Array
    value: jax.Array
    query_position: jax.Array
    keys: Keys
    window: jax.Array | None


def _block(array: jax.Array, index: jax.Array) -> jax.Array:
    """Block `index` of the second axis."""
    return jax.lax.dynamic_slice_in_dim(array, index * BLOCK, BLOCK, axis=1)


def _block_mask(inputs: _Inputs, query_block: jax.Array, key_block: jax.Array) -> jax.Array:
    mask = visible(
        query_block * BLOCK + jnp.arange(BLOCK),
        _block(inputs.query_position, query_block),
        key_block * BLOCK + jnp.arange(BLOCK),
        Keys(*(_block(array, key_block) for array in inputs.keys)),
        inputs.window,
    )
    return mask[:, None, None]


def _first_key_blocks(keys: Keys) -> jax.Array:
    """[L / Q] int32: the first block with a key that a query of each block may see, in any row."""
    return jnp.min(first_key_blocks(keys.end, BLOCK), axis=0)


def _forward_blocks(inputs: _Inputs, scale: float, softcap: float | None) -> tuple[jax.Array, jax.Array]:
    """Output [B, L, K, G, H] and the log-sum-exp of the scores [B, K, G, L], by a running softmax."""
    batch, length, key_heads, groups, dim = inputs.query.shape
    wide = jnp.promote_types(inputs.query.dtype, jnp.float32)
    lowest = jnp.finfo(wide).min

    def one_query_block(blocks: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        query_block, first = blocks
        query = _block(inputs.query, query_block)

        def one_key_block(key_block: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            highest, total, mixed = carry
            mask = _block_mask(inputs, query_block, key_block)
            scores = jnp.where(mask, scores_of(query, _block(inputs.key, key_block), scale, softcap), lowest)
            new_highest = jnp.maximum(highest, scores.max(-1))
            weights = jnp.where(mask, jnp.exp(scores - new_highest[..., None]), 0)
            shrink = jnp.exp(highest - new_highest)
            value = _block(inputs.value, key_block)
            added = jnp.einsum("bkgqp,bpkh->bkgqh", weights.astype(value.dtype), value, preferred_element_type=wide)
            return new_highest, total * shrink + weights.sum(-1), mixed * shrink[..., None] + added

        shape = (batch, key_heads, groups, BLOCK)
        start = (jnp.full(shape, lowest, wide), jnp.zeros(shape, wide), jnp.zeros((*shape, dim), wide))
        highest, total, mixed = jax.lax.fori_loop(first, query_block + 1, one_key_block, start)
        seen = total > 0
        mixed = jnp.where(seen[..., None], mixed / jnp.where(seen, total, 1)[..., None], 0)
        return mixed, jnp.where(seen, highest + jnp.log(jnp.where(seen, total, 1)), 0)

    mixed, lse = jax.lax.map(
        one_query_block, (jnp.arange(length // BLOCK, dtype=jnp.int32), _first_key_blocks(inputs.keys))
    )
    mixed = jnp.moveaxis(mixed, (0, 1, 4), (1, 0, 2)).reshape(inputs.query.shape)
    return mixed.astype(inputs.value.dtype), jnp.moveaxis(lse, 0, 3).reshape(batch, key_heads, groups, length)


@partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def blockwise_attention(
    query_BLKGH: jax.Array,
    key_BLKH: jax.Array,
    value_BLKH: jax.Array,
    query_position_BL: jax.Array,
    keys: Keys,
    window: jax.Array | None,
    scale: float,
    softcap: float | None,
) -> jax.Array:
    """`attention` of a whole row (L = M, a multiple of `BLOCK`), block by block; [B, L, K, G, H].

    Memory is linear in L. Source of the scheme: Dao 2023 (FlashAttention-2, arXiv:2307.08691), Algorithms 1 and 2.
    """
    inputs = _Inputs(query_BLKGH, key_BLKH, value_BLKH, query_position_BL, keys, window)
    return _forward_blocks(inputs, scale, softcap)[0]


def _forward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    query_position: jax.Array,
    keys: Keys,
    window: jax.Array | None,
    scale: float,
    softcap: float | None,
) -> tuple[jax.Array, tuple[_Inputs, jax.Array, jax.Array]]:
    inputs = _Inputs(query, key, value, query_position, keys, window)
    output, lse = _forward_blocks(inputs, scale, softcap)
    return output, (inputs, output, lse)


def _backward(
    scale: float, softcap: float | None, saved: tuple[_Inputs, jax.Array, jax.Array], slope: jax.Array
) -> tuple[jax.Array | None, ...]:
    inputs, output, lse = saved
    wide = lse.dtype
    dot_BKGL = jnp.einsum("blkgh,blkgh->bkgl", slope.astype(wide), output.astype(wide))

    def one_query_block(carry: tuple[jax.Array, jax.Array], blocks: tuple[jax.Array, jax.Array]) -> tuple:
        query_block, first = blocks
        query, query_slope = _block(inputs.query, query_block), _block(slope, query_block)
        start = query_block * BLOCK
        block_lse, block_dot = (
            jax.lax.dynamic_slice_in_dim(x, start, BLOCK, axis=3)[..., None] for x in (lse, dot_BKGL)
        )

        def one_key_block(key_block: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            query_gradient, key_gradient, value_gradient = carry
            key, value = _block(inputs.key, key_block), _block(inputs.value, key_block)
            scores = scores_of(query, key, scale, softcap)
            mask = _block_mask(inputs, query_block, key_block)
            weights = jnp.where(mask, jnp.exp(scores - block_lse), 0)
            weights_slope = jnp.einsum("bqkgh,bpkh->bkgqp", query_slope, value, preferred_element_type=wide)
            scores_slope = weights * (weights_slope - block_dot) * scale
            if softcap is not None:
                scores_slope *= 1 - (scores / softcap) ** 2
            scores_slope = scores_slope.astype(query.dtype)
            query_gradient += jnp.einsum("bkgqp,bpkh->bqkgh", scores_slope, key, preferred_element_type=wide)
            to_key = jnp.einsum("bkgqp,bqkgh->bpkh", scores_slope, query, preferred_element_type=wide)
            to_value = jnp.einsum(
                "bkgqp,bqkgh->bpkh", weights.astype(query.dtype), query_slope, preferred_element_type=wide
            )
            key_gradient, value_gradient = (
                jax.lax.dynamic_update_slice_in_dim(total, _block(total, key_block) + part, key_block * BLOCK, axis=1)
                for total, part in ((key_gradient, to_key), (value_gradient, to_value))
            )
            return query_gradient, key_gradient, value_gradient

        zeros = jnp.zeros(query.shape, wide)
        result: tuple[jax.Array, ...] = jax.lax.fori_loop(first, query_block + 1, one_key_block, (zeros, *carry))
        return result[1:], result[0]

    zeros = (jnp.zeros(inputs.key.shape, wide), jnp.zeros(inputs.value.shape, wide))
    blocks = (jnp.arange(inputs.query.shape[1] // BLOCK, dtype=jnp.int32), _first_key_blocks(inputs.keys))
    carried: tuple[jax.Array, jax.Array]
    by_block: jax.Array
    carried, by_block = jax.lax.scan(one_query_block, zeros, blocks)
    query_gradient = jnp.moveaxis(by_block, 0, 1).reshape(inputs.query.shape)
    gradients = zip((query_gradient, *carried), inputs[:3], strict=True)
    return *(gradient.astype(array.dtype) for gradient, array in gradients), None, None, None


blockwise_attention.defvjp(_forward, _backward)
