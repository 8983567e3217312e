"""Attention over one-row layouts. The mask is `key <= query and query < end[key]` (schemas/layout.py), and the
sliding window where a layer has one.

Two forms with equal results: `dense_attention` holds all scores at once; `blockwise_attention` holds those of one
block of queries and one of keys, passes over blocks that the mask empties, and recomputes scores for the gradient.

Axes: B = rows, L = queries, M = keys (both the positions of a row in training), N = query heads, K = key-value heads,
G = N / K, H = head dimension; Q = queries of a block, P = keys of a block.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

# auto: blockwise where it can be, else dense; xla: blockwise, in plain JAX; vanilla: dense. Names as in EasyDeL.
AttentionMechanism = Literal["auto", "xla", "vanilla"]

# Queries and keys of a block: the smallest size at which matrix units are busy, for the finest steps of the mask.
BLOCK = 128


class Keys(NamedTuple):
    """Where the keys of a row stand; what the mask is made of.

    Attributes:
      position: [B, M] int32, position in the pair's prompt + branch; sliding windows count in these.
      end: [B, M] int32, first index that no longer sees the key; 0 at padding.
    """

    position: jax.Array
    end: jax.Array


def attention(
    query_BLNH: jax.Array,
    key_BMKH: jax.Array,
    value_BMKH: jax.Array,
    query_position_BL: jax.Array,
    keys: Keys,
    *,
    scale: float,
    first_query: jax.Array | int = 0,
    window: jax.Array | None = None,
    softcap: float | None = None,
    drop: Callable[[jax.Array], jax.Array] | None = None,
    mechanism: AttentionMechanism = "auto",
) -> jax.Array:
    """Softmax attention; scores and softmax in float32 or wider.

    Args:
      query_BLNH, key_BMKH, value_BMKH: rotated queries and keys, values; N is a multiple of K.
      query_position_BL: [B, L] int32, as `keys.position`.
      scale: scores are the dot products times this.
      first_query: index of the first query among the keys; not 0 when keys come from a cache.
      window: int32 scalar, a query sees keys less than this many positions back; None: all.
      softcap: scores s become softcap * tanh(s / softcap).
      drop: dropout of the softmax's weights [B, K, G, L, M]; with it all of them are held at once.
      mechanism: `vanilla` holds all scores at once too; the others only where `can_be_blockwise` denies it.

    Returns: [B, L, N, H] in the values' dtype. At padding positions it is finite and means nothing.
    """
    batch, length, heads, dim = query_BLNH.shape
    query_BLKGH = query_BLNH.reshape(batch, length, key_BMKH.shape[2], -1, dim)
    if mechanism != "vanilla" and drop is None and length == key_BMKH.shape[1] and can_be_blockwise(length):
        mixed = blockwise_attention(query_BLKGH, key_BMKH, value_BMKH, query_position_BL, keys, window, scale, softcap)
    else:
        mixed = dense_attention(
            query_BLKGH, key_BMKH, value_BMKH, query_position_BL, keys, window, scale, softcap, first_query, drop
        )
    return mixed.reshape(batch, length, heads, dim)


def can_be_blockwise(length: int) -> bool:
    """Whether rows of this length are blocks; a single one is dense already."""
    return length % BLOCK == 0 and length > BLOCK


def _scores(query: jax.Array, key: jax.Array, scale: float, softcap: float | None) -> jax.Array:
    """[B, K, G, L, M] in float32 or wider."""
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("blkgh,bmkh->bkglm", query, key, preferred_element_type=wide) * scale
    return scores if softcap is None else softcap * jnp.tanh(scores / softcap)


def _visible(
    query_index_L: jax.Array,
    query_position_BL: jax.Array,
    key_index_M: jax.Array,
    keys: Keys,
    window: jax.Array | None,
) -> jax.Array:
    """The mask, [B, 1, 1, L, M] bool."""
    query_index, key_index = query_index_L[None, :, None], key_index_M[None, None, :]
    visible = (key_index <= query_index) & (query_index < keys.end[:, None, :])
    if window is not None:
        visible &= query_position_BL[:, :, None] - keys.position[:, None, :] < window
    return visible[:, None, None]


def dense_attention(
    query_BLKGH: jax.Array,
    key_BMKH: jax.Array,
    value_BMKH: jax.Array,
    query_position_BL: jax.Array,
    keys: Keys,
    window: jax.Array | None,
    scale: float,
    softcap: float | None,
    first_query: jax.Array | int = 0,
    drop: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """`attention` with all scores at once; [B, L, K, G, H]."""
    scores = _scores(query_BLKGH, key_BMKH, scale, softcap)
    query_index_L, key_index_M = first_query + jnp.arange(query_BLKGH.shape[1]), jnp.arange(key_BMKH.shape[1])
    visible = _visible(query_index_L, query_position_BL, key_index_M, keys, window)
    # A finite floor keeps rows that see nothing (padding) free of NaN.
    weights = jax.nn.softmax(jnp.where(visible, scores, jnp.finfo(scores.dtype).min), axis=-1)
    weights = weights if drop is None else drop(weights)
    return jnp.einsum("bkglm,bmkh->blkgh", weights.astype(value_BMKH.dtype), value_BMKH)


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


def _block_visible(inputs: _Inputs, query_block: jax.Array, key_block: jax.Array) -> jax.Array:
    return _visible(
        query_block * BLOCK + jnp.arange(BLOCK),
        _block(inputs.query_position, query_block),
        key_block * BLOCK + jnp.arange(BLOCK),
        Keys(*(_block(array, key_block) for array in inputs.keys)),
        inputs.window,
    )


def _first_key_blocks(keys: Keys) -> jax.Array:
    """[L / Q] int32: the first block with a key that a query of each block may see, in any row."""
    ends = jnp.max(keys.end.reshape(keys.end.shape[0], -1, BLOCK), axis=(0, 2))
    blocks = jnp.arange(len(ends))
    return jnp.minimum(jnp.argmax(ends > blocks[:, None] * BLOCK, axis=1), blocks)


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
            visible = _block_visible(inputs, query_block, key_block)
            scores = jnp.where(visible, _scores(query, _block(inputs.key, key_block), scale, softcap), lowest)
            new_highest = jnp.maximum(highest, scores.max(-1))
            weights = jnp.where(visible, jnp.exp(scores - new_highest[..., None]), 0)
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

    mixed, lse = jax.lax.map(one_query_block, (jnp.arange(length // BLOCK), _first_key_blocks(inputs.keys)))
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
            scores = _scores(query, key, scale, softcap)
            visible = _block_visible(inputs, query_block, key_block)
            weights = jnp.where(visible, jnp.exp(scores - block_lse), 0)
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
    blocks = (jnp.arange(inputs.query.shape[1] // BLOCK), _first_key_blocks(inputs.keys))
    carried: tuple[jax.Array, jax.Array]
    by_block: jax.Array
    carried, by_block = jax.lax.scan(one_query_block, zeros, blocks)
    query_gradient = jnp.moveaxis(by_block, 0, 1).reshape(inputs.query.shape)
    gradients = zip((query_gradient, *carried), inputs[:3], strict=True)
    return *(gradient.astype(array.dtype) for gradient, array in gradients), None, None, None


blockwise_attention.defvjp(_forward, _backward)
