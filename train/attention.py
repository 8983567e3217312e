"""Attention over one-row layouts. The mask is `key <= query and query < end[key]` (schemas/layout.py).

Axes: B = rows, L = positions of a row, N = query heads, K = key-value heads, G = N / K, H = head dimension.
"""

import jax
import jax.numpy as jnp


def attention(query_BLNH: jax.Array, key_BLKH: jax.Array, value_BLKH: jax.Array, end_BL: jax.Array) -> jax.Array:
    """Softmax attention in plain XLA; scores and softmax in float32 or wider.

    Args:
      query_BLNH, key_BLKH, value_BLKH: rotated queries and keys, values; N is a multiple of K.
      end_BL: [B, L] int32, first position that no longer sees the key; 0 at padding.

    Returns: [B, L, N, H] in the values' dtype. At padding positions it is finite and means nothing.
    """
    batch, length, heads, dim = query_BLNH.shape
    groups = heads // key_BLKH.shape[2]
    query = query_BLNH.reshape(batch, length, key_BLKH.shape[2], groups, dim)
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scores_BKGLM = jnp.einsum("blkgh,bmkh->bkglm", query, key_BLKH, preferred_element_type=wide) * dim**-0.5
    index = jnp.arange(length)
    visible_BLM = (index[None, None, :] <= index[None, :, None]) & (index[None, :, None] < end_BL[:, None, :])
    # A finite floor keeps rows that see nothing (padding) free of NaN.
    scores_BKGLM = jnp.where(visible_BLM[:, None, None], scores_BKGLM, jnp.finfo(wide).min)
    weights = jax.nn.softmax(scores_BKGLM, axis=-1).astype(value_BLKH.dtype)
    mixed = jnp.einsum("bkglm,bmkh->blkgh", weights, value_BLKH)
    return mixed.reshape(batch, length, heads, dim)
