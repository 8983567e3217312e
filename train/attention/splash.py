"""Attention by JAX's splash kernel, on TPUs.

The kernel knows causal order and segments, not the mask of the one-row layout: it is called for two views of the same
row, and each query takes the one that is right for it (`oddsmill.train.attention.mask.branch_views`).

Axes: B = rows, L = positions of a row, N = query heads, K = key-value heads, H = head dimension.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash

from oddsmill.train.attention.mask import branch_views
from oddsmill.train.attention.mechanism import Mechanism, WholeRows, Workload

# A kernel's block is the largest of these that divides the row.
BLOCKS = (1024, 512, 256, 128)


def splash_attention(rows: WholeRows, scale: float, softcap: float | None, *, interpret: bool = False) -> jax.Array:
    """`Mechanism.compute`, without a sliding window.

    Args:
      interpret: runs the kernel's program on any device, slowly.
    """
    length, heads = rows.query_BLNH.shape[1:3]
    block = next(size for size in BLOCKS if length % size == 0)
    kernel = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([splash.CausalMask((length, length))] * heads),
        block_sizes=splash.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            use_fused_bwd_kernel=True,
        ),
        attn_logits_soft_cap=softcap,
        interpret=interpret,
    )
    query, key, value = (jnp.moveaxis(x, 1, 2) for x in (rows.query_BLNH * scale, rows.key_BLKH, rows.value_BLKH))

    def view(segment_BL: jax.Array) -> jax.Array:
        return jax.vmap(kernel)(query, key, value, splash.SegmentIds(segment_BL, segment_BL))

    pair_BL, same_end_BL, is_chosen_BL = branch_views(rows.keys.end)
    output = jnp.where(is_chosen_BL[:, None, :, None], view(pair_BL), view(same_end_BL))
    return jnp.moveaxis(output, 1, 2).astype(rows.value_BLKH.dtype)


def _limits(workload: Workload) -> str | None:
    if workload.has_window:
        return "it has no sliding window that counts from a pair's own beginning (sliding_window in config.json)"
    return None


SPLASH = Mechanism(
    name="splash",
    compute=splash_attention,
    platform="tpu",
    length_multiple=BLOCKS[-1],
    limits=_limits,
    causal_passes=2,
)
