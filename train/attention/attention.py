"""Attention over one-row layouts (train/attention/mask.py): the one function that the decoder calls.

Axes: B = rows, L = queries, M = keys (both the positions of a row in training), N = query heads, K = key-value heads,
G = N / K, H = head dimension.
"""

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

from oddsmill.train.attention.mask import Keys
from oddsmill.train.attention.mechanism import Mechanism, WholeRows
from oddsmill.train.attention.vanilla import dense_attention
from oddsmill.train.parallel.sharding import BATCH_AXES


def attention(
    query_BLNH: jax.Array,
    key_BMKH: jax.Array,
    value_BMKH: jax.Array,
    query_position_BL: jax.Array,
    keys: Keys,
    *,
    scale: float,
    mechanism: Mechanism,
    first_query: jax.Array | int = 0,
    window: jax.Array | None = None,
    softcap: float | None = None,
    drop: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Softmax attention; scores and softmax in float32 or wider.

    Args:
      query_BLNH, key_BMKH, value_BMKH: rotated queries and keys, values; N is a multiple of K.
      query_position_BL: [B, L] int32, as `keys.position`.
      scale: scores are the dot products times this.
      mechanism: computes whole rows of a length that it takes, without dropout. All else is dense: the tokens after a
        cache, and prompts that are shorter than a block.
      first_query: index of the first query among the keys; not 0 when keys come from a cache.
      window: int32 scalar, a query sees keys less than this many positions back; None: all.
      softcap: scores s become softcap * tanh(s / softcap).
      drop: dropout of the attention weights [B, K, G, L, M], which are then all held at once.

    Returns: [B, L, N, H] in the values' dtype. At padding positions it is finite and means nothing.
    """
    length = query_BLNH.shape[1]
    is_whole = drop is None and length == key_BMKH.shape[1]
    if not (is_whole and mechanism.takes_length(length)):
        return dense_attention(
            query_BLNH,
            key_BMKH,
            value_BMKH,
            query_position_BL,
            keys,
            window,
            scale=scale,
            softcap=softcap,
            first_query=first_query,
            drop=drop,
        )
    rows = WholeRows(query_BLNH, key_BMKH, value_BMKH, keys, window)
    mesh = jax.sharding.get_abstract_mesh()
    if mechanism.split_by_xla or mesh.empty:
        return mechanism.compute(rows, scale, softcap)
    # Each device computes its own rows, and its own heads where they can be shared out.
    heads = "tensor" if key_BMKH.shape[2] % mesh.shape["tensor"] == 0 else None
    by_head, by_row = PartitionSpec(BATCH_AXES, None, heads), PartitionSpec(BATCH_AXES)
    on_each_device = jax.shard_map(
        lambda *local: mechanism.compute(WholeRows(*local), scale, softcap),
        in_specs=(by_head, by_head, by_head, by_row, PartitionSpec()),
        out_specs=by_head,
        check_vma=False,
    )
    return on_each_device(*rows)
