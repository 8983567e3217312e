"""Attention by JAX's splash kernel, on TPUs.

The kernel knows causal order and segments, not the rule of the one-row layout: it is called for two views of the same
row, and each query takes the one that is right for it (`oddsmill.train.attention.mask.branch_views`).

Axes: B = rows, L = positions of a row, N = query heads, K = key-value heads, H = head dimension.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash

from oddsmill.train.attention.mask import branch_views

# Row lengths are a multiple of the least; a kernel's block is the largest that divides them.
BLOCKS = (1024, 512, 256, 128)


def splash_attention(
    query_BLNH: jax.Array,
    key_BLKH: jax.Array,
    value_BLKH: jax.Array,
    end_BL: jax.Array,
    *,
    scale: float,
    softcap: float | None,
    interpret: bool,
) -> jax.Array:
    """`oddsmill.train.attention.mechanisms.attention` of whole rows, without a sliding window; [B, L, N, H].

    Args:
      interpret: runs the kernel's program on any device, slowly.
    """
    length, heads = query_BLNH.shape[1:3]
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
    query, key, value = (jnp.moveaxis(x, 1, 2) for x in (query_BLNH * scale, key_BLKH, value_BLKH))

    def view(segment_BL: jax.Array) -> jax.Array:
        return jax.vmap(kernel)(query, key, value, splash.SegmentIds(segment_BL, segment_BL))

    pair_BL, together_BL, is_chosen_BL = branch_views(end_BL)
    mixed = jnp.where(is_chosen_BL[:, None, :, None], view(pair_BL), view(together_BL))
    return jnp.moveaxis(mixed, 1, 2).astype(value_BLKH.dtype)
