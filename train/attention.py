"""Attention over one-row layouts. The mask is `key <= query and query < end[key]` (schemas/layout.py).

Axes: B = rows, L = queries, M = keys (both the positions of a row in training), N = query heads,
K = key-value heads, G = N / K, H = head dimension.
"""

import jax
import jax.numpy as jnp


def attention(
    query_BLNH: jax.Array,
    key_BMKH: jax.Array,
    value_BMKH: jax.Array,
    end_BM: jax.Array,
    *,
    first_query: jax.Array | int = 0,
) -> jax.Array:
    """Softmax attention in plain XLA; scores and softmax in float32 or wider.

    Args:
      query_BLNH, key_BMKH, value_BMKH: rotated queries and keys, values; N is a multiple of K.
      end_BM: [B, M] int32, first index that no longer sees the key; 0 at padding.
      first_query: index of the first query among the keys; not 0 when keys come from a cache.

    Returns: [B, L, N, H] in the values' dtype. At padding positions it is finite and means nothing.
    """
    batch, length, heads, dim = query_BLNH.shape
    groups = heads // key_BMKH.shape[2]
    query = query_BLNH.reshape(batch, length, key_BMKH.shape[2], groups, dim)
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scores_BKGLM = jnp.einsum("blkgh,bmkh->bkglm", query, key_BMKH, preferred_element_type=wide) * dim**-0.5
    query_index_L, key_index_M = first_query + jnp.arange(length), jnp.arange(key_BMKH.shape[1])
    visible_BLM = (key_index_M <= query_index_L[:, None]) & (query_index_L[:, None] < end_BM[:, None, :])
    # A finite floor keeps rows that see nothing (padding) free of NaN.
    scores_BKGLM = jnp.where(visible_BLM[:, None, None], scores_BKGLM, jnp.finfo(wide).min)
    weights = jax.nn.softmax(scores_BKGLM, axis=-1).astype(value_BMKH.dtype)
    mixed = jnp.einsum("bkglm,bmkh->blkgh", weights, value_BMKH)
    return mixed.reshape(batch, length, heads, dim)
