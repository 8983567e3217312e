"""Attention with all scores at once: the definition that the other mechanisms equal, and the soft cap of scores.

Axes: B = rows, L = queries, M = keys (both the positions of a row in training), N = query heads, K = key-value heads,
G = N / K, H = head dimension.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from oddsmill.train.attention.mask import Keys, mask_of_rows
from oddsmill.train.attention.mechanism import Mechanism, WholeRows


def softcapped(values: jax.Array, softcap: float | None) -> jax.Array:
    """`softcap` * tanh(`values` / `softcap`); None leaves the values. Source: Gemma 2 (arXiv:2408.00118), section 2."""
    return values if softcap is None else softcap * jnp.tanh(values / softcap)


def softcap_vjp(grad: jax.Array, capped: jax.Array, softcap: float | None) -> jax.Array:
    """The gradient in the values, from that in the capped values, `capped`."""
    return grad if softcap is None else grad * (1 - (capped / softcap) ** 2)


def dense_attention(
    query_BLNH: jax.Array,
    key_BMKH: jax.Array,
    value_BMKH: jax.Array,
    query_position_BL: jax.Array,
    keys: Keys,
    window: jax.Array | None,
    *,
    scale: float,
    softcap: float | None,
    first_query: jax.Array | int = 0,
    drop: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """`attention` with all scores at once; [B, L, N, H]. It takes any queries and keys."""
    batch, length, heads, dim = query_BLNH.shape
    query_BLKGH = query_BLNH.reshape(batch, length, key_BMKH.shape[2], -1, dim)
    acc_dtype = jnp.promote_types(query_BLNH.dtype, jnp.float32)
    scores = jnp.einsum("blkgh,bmkh->bkglm", query_BLKGH, key_BMKH, preferred_element_type=acc_dtype)
    scores = softcapped(scores * scale, softcap)
    query_index_L, key_index_M = first_query + jnp.arange(length), jnp.arange(key_BMKH.shape[1])
    mask = mask_of_rows(query_index_L, query_position_BL, key_index_M, keys, window)[:, None, None]
    # A finite mask value keeps rows that see nothing (padding) free of NaN.
    weights = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min), axis=-1)
    weights = weights if drop is None else drop(weights)
    output = jnp.einsum("bkglm,bmkh->blkgh", weights.astype(value_BMKH.dtype), value_BMKH)
    return output.reshape(batch, length, heads, dim)


def _whole_rows(rows: WholeRows, scale: float, softcap: float | None) -> jax.Array:
    query, key, value, keys, window = rows
    return dense_attention(query, key, value, keys.position, keys, window, scale=scale, softcap=softcap)


VANILLA = Mechanism(name="vanilla", compute=_whole_rows, drops_weights=True, split_by_xla=True)
