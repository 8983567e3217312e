"""Attention over one-row layouts (train/attention/mask.py): one function, several forms with equal results.

`dense_attention` holds all scores at once and takes anything; the others never do, and what each of them cannot is told
by train/attention/choice.py.

Axes: B = rows, L = queries, M = keys (both the positions of a row in training), N = query heads, K = key-value heads,
G = N / K, H = head dimension.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from oddsmill.train.attention.blocks import blockwise_attention, can_be_blockwise
from oddsmill.train.attention.mask import Keys, visible
from oddsmill.train.attention.pallas import pallas_attention
from oddsmill.train.attention.softcap import softcapped
from oddsmill.train.attention.splash import splash_attention
from oddsmill.train.config.compute import AttentionMechanism
from oddsmill.train.parallel.sharding import BATCH_AXES

# Runs the kernels' programs without their devices, slowly: for tests.
INTERPRET = False


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
      mechanism: of whole rows without such a dropout; all else is dense.

    Returns: [B, L, N, H] in the values' dtype. At padding positions it is finite and means nothing.
    """
    batch, length, heads, dim = query_BLNH.shape
    if drop is None and length == key_BMKH.shape[1]:
        if mechanism == "auto":
            mechanism = "xla" if can_be_blockwise(length) else "vanilla"
        if mechanism != "vanilla":
            return _on_each_device(
                mechanism, query_BLNH, key_BMKH, value_BMKH, keys, window, scale=scale, softcap=softcap
            )
    grouped = query_BLNH.reshape(batch, length, key_BMKH.shape[2], -1, dim)
    mixed = dense_attention(
        grouped, key_BMKH, value_BMKH, query_position_BL, keys, window, scale, softcap, first_query, drop
    )
    return mixed.reshape(batch, length, heads, dim)


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
    wide = jnp.promote_types(query_BLKGH.dtype, jnp.float32)
    scores = jnp.einsum("blkgh,bmkh->bkglm", query_BLKGH, key_BMKH, preferred_element_type=wide)
    scores = softcapped(scores * scale, softcap)
    query_index_L, key_index_M = first_query + jnp.arange(query_BLKGH.shape[1]), jnp.arange(key_BMKH.shape[1])
    mask = visible(query_index_L, query_position_BL, key_index_M, keys, window)[:, None, None]
    # A finite floor keeps rows that see nothing (padding) free of NaN.
    weights = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min), axis=-1)
    weights = weights if drop is None else drop(weights)
    return jnp.einsum("bkglm,bmkh->blkgh", weights.astype(value_BMKH.dtype), value_BMKH)


def cudnn_attention(
    query_BLNH: jax.Array,
    key_BLKH: jax.Array,
    value_BLKH: jax.Array,
    keys: Keys,
    window: jax.Array | None,
    *,
    scale: float,
    interpret: bool,
) -> jax.Array:
    """`attention` of whole rows by cuDNN, bfloat16 alone; the mask is one array for all heads.

    Args:
      interpret: takes XLA's form of the same function of JAX, on any device.
    """
    index_L = jnp.arange(query_BLNH.shape[1])
    # A token always sees itself; so does padding here, as the softmax of nothing would be NaN.
    mask_BLL = visible(index_L, keys.position, index_L, keys, window) | (index_L[:, None] == index_L)
    return jax.nn.dot_product_attention(
        query_BLNH,
        key_BLKH,
        value_BLKH,
        mask=mask_BLL[:, None],
        scale=scale,
        is_causal=True,
        implementation="xla" if interpret else "cudnn",
    )


def _on_each_device(
    mechanism: AttentionMechanism,
    query_BLNH: jax.Array,
    key_BLKH: jax.Array,
    value_BLKH: jax.Array,
    keys: Keys,
    window: jax.Array | None,
    *,
    scale: float,
    softcap: float | None,
) -> jax.Array:
    """Attention of whole rows: each device of the mesh at hand takes its own, and its own heads where they can be
    shared out. XLA cannot split a kernel's call by itself; blocks are passed over by the rows of one device.
    """

    def local(query: jax.Array, key: jax.Array, value: jax.Array, keys: Keys, window: jax.Array | None) -> jax.Array:
        match mechanism:
            case "cudnn":
                return cudnn_attention(query, key, value, keys, window, scale=scale, interpret=INTERPRET)
            case "pallas":
                return pallas_attention(query, key, value, keys, window, scale, softcap, INTERPRET)
            case "splash":
                return splash_attention(query, key, value, keys.end, scale=scale, softcap=softcap, interpret=INTERPRET)
            case _:
                return blockwise_attention(query, key, value, keys, window, scale, softcap)

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return local(query_BLNH, key_BLKH, value_BLKH, keys, window)
    heads = "tensor" if key_BLKH.shape[2] % mesh.shape["tensor"] == 0 else None
    of_heads, of_row = PartitionSpec(BATCH_AXES, None, heads), PartitionSpec(BATCH_AXES)
    on_each = jax.shard_map(
        local, in_specs=(of_heads, of_heads, of_heads, of_row, PartitionSpec()), out_specs=of_heads, check_vma=False
    )
    return on_each(query_BLNH, key_BLKH, value_BLKH, keys, window)
