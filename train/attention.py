"""Attention over one-row layouts. The mask is `key <= query and query < end[key]` (schemas/layout.py), and the
sliding window where a layer has one.

Axes: B = rows, L = queries, M = keys (both the positions of a row in training), N = query heads,
K = key-value heads, G = N / K, H = head dimension.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


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
) -> jax.Array:
    """Softmax attention in plain XLA; scores and softmax in float32 or wider.

    Args:
      query_BLNH, key_BMKH, value_BMKH: rotated queries and keys, values; N is a multiple of K.
      query_position_BL: [B, L] int32, as `keys.position`.
      scale: scores are the dot products times this.
      first_query: index of the first query among the keys; not 0 when keys come from a cache.
      window: int32 scalar, a query sees keys less than this many positions back; None: all.
      softcap: scores s become softcap * tanh(s / softcap).

    Returns: [B, L, N, H] in the values' dtype. At padding positions it is finite and means nothing.
    """
    batch, length, heads, dim = query_BLNH.shape
    groups = heads // key_BMKH.shape[2]
    query = query_BLNH.reshape(batch, length, key_BMKH.shape[2], groups, dim)
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scores_BKGLM = jnp.einsum("blkgh,bmkh->bkglm", query, key_BMKH, preferred_element_type=wide) * scale
    if softcap is not None:
        scores_BKGLM = softcap * jnp.tanh(scores_BKGLM / softcap)
    query_index_L, key_index_M = first_query + jnp.arange(length), jnp.arange(key_BMKH.shape[1])
    visible_BLM = (key_index_M <= query_index_L[:, None]) & (query_index_L[:, None] < keys.end[:, None, :])
    if window is not None:
        visible_BLM &= query_position_BL[:, :, None] - keys.position[:, None, :] < window
    # A finite floor keeps rows that see nothing (padding) free of NaN.
    scores_BKGLM = jnp.where(visible_BLM[:, None, None], scores_BKGLM, jnp.finfo(wide).min)
    weights = jax.nn.softmax(scores_BKGLM, axis=-1).astype(value_BMKH.dtype)
    mixed = jnp.einsum("bkglm,bmkh->blkgh", weights, value_BMKH)
    return mixed.reshape(batch, length, heads, dim)
