"""The mask of attention over one-row layouts, with sliding windows, and what block kernels derive from it.

A query sees a key where `key <= query and query < end[key]` (schemas/layout.py: sees), within the sliding window where
a layer has one.

Axes: B = rows, L = queries, M = keys (both the positions of a row in training), S = blocks of a row.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from oddsmill.schemas.layout import sees


class Keys(NamedTuple):
    """The keys of a row, as far as the mask needs them.

    Attributes:
      position: [B, M] int32, position in the pair's prompt + branch; sliding windows count in these.
      end: [B, M] int32, first index that no longer sees the key; 0 at padding.
    """

    position: jax.Array
    end: jax.Array


def visible(
    query_index: jax.Array,
    key_index: jax.Array,
    key_end: jax.Array,
    *,
    distance: jax.Array | None = None,
    window: jax.Array | None = None,
) -> jax.Array:
    """Returns the mask of some queries and keys, bool, within a sliding window if there is one. Arguments broadcast.

    Args:
      query_index, key_index: int32, indices in the row.
      key_end: int32, `Keys.end` of each key.
      distance: int32, the query's position minus the key's; needed with a window.
      window: int32 scalar, a query sees keys less than this many positions back; None: all.
    """
    mask: jax.Array = sees(query_index, key_index, key_end)
    return mask if distance is None or window is None else mask & (distance < window)


def mask_of_rows(
    query_index_L: jax.Array,
    query_position_BL: jax.Array,
    key_index_M: jax.Array,
    keys: Keys,
    window: jax.Array | None,
) -> jax.Array:
    """Returns the mask of whole rows, [B, L, M] bool; `window` is that of `visible`."""
    return visible(
        query_index_L[None, :, None],
        key_index_M[None, None, :],
        keys.end[:, None, :],
        distance=query_position_BL[:, :, None] - keys.position[:, None, :],
        window=window,
    )


def seen_blocks(position_L: jax.Array, end_L: jax.Array, window: jax.Array | None, block: int) -> jax.Array:
    """Tells which blocks of keys a block of queries may see: [L / block queries, L / block keys] bool of one row.

    It is exact but for the window, which leaves out only blocks whose every key is too far back.
    """
    block_S = jnp.arange(end_L.shape[0] // block, dtype=jnp.int32)
    seen_SS = (block_S <= block_S[:, None]) & (end_L.reshape(-1, block).max(-1) > block_S[:, None] * block)
    if window is not None:
        position_SB = position_L.reshape(-1, block)
        seen_SS &= position_SB.min(-1)[:, None] - position_SB.max(-1) < window
    return seen_SS


def first_key_blocks(end_BL: jax.Array, block: int) -> jax.Array:
    """Returns the first block of keys that each block of queries may see, at most its own: [B, L / block] int32."""
    ends = jnp.max(end_BL.reshape(end_BL.shape[0], -1, block), axis=-1)
    blocks = jnp.arange(ends.shape[1], dtype=jnp.int32)
    seen = ends[:, None, :] > blocks[:, None] * block
    return jnp.minimum(jnp.argmax(seen, axis=-1).astype(jnp.int32), blocks)


def after_query_blocks(end_BL: jax.Array, block: int) -> jax.Array:
    """Returns the block after the last one whose queries may see each block of keys: [B, L / block] int32."""
    ends = jnp.max(end_BL.reshape(end_BL.shape[0], -1, block), axis=-1)
    return -(-ends // block)


def branch_views(end_BL: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the mask as segments, for kernels that know causal order and segments alone.

    A token of the prompt or the rejected answer ends where its pair does, one of the chosen answer earlier. The first
    view has whole pairs for segments: there a prompt or chosen token sees exactly what it may, as the rejected answer
    comes later. The second has tokens with the same end for segments: there a prompt or rejected token does. (A pair
    whose prompt is one token has no position of its own for it: its answers share nothing, and are two pairs here.)

    Returns: segments of the two views, [B, L] int32 each, and which queries take the first, [B, L] bool.
    """
    pair_BL = jax.lax.cummax(end_BL, axis=1)
    return jnp.where(end_BL > 0, pair_BL, 0), end_BL, (end_BL > 0) & (end_BL < pair_BL)
