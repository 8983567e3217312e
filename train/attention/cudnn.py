"""Attention by cuDNN, through JAX's own function; the mask is one array for all heads.

Axes: B = rows, L = positions of a row, N = query heads, K = key-value heads, H = head dimension.
"""

import jax
import jax.numpy as jnp

from oddsmill.train.attention.mask import mask_of_rows
from oddsmill.train.attention.mechanism import Mechanism, WholeRows, Workload, older_gpu


def cudnn_attention(rows: WholeRows, scale: float, softcap: float | None, *, interpret: bool = False) -> jax.Array:
    """`Mechanism.compute`, without a soft cap.

    Args:
      interpret: takes XLA's form of the same function of JAX, on any device.
    """
    assert softcap is None  # by _limits
    query_BLNH, key_BLKH, value_BLKH, keys, window = rows
    index_L = jnp.arange(query_BLNH.shape[1])
    # A token always sees itself; so does padding here, as the softmax of nothing would be NaN.
    mask_BLL = mask_of_rows(index_L, keys.position, index_L, keys, window) | (index_L[:, None] == index_L)
    return jax.nn.dot_product_attention(
        query_BLNH,
        key_BLKH,
        value_BLKH,
        mask=mask_BLL[:, None],
        scale=scale,
        is_causal=True,
        implementation="xla" if interpret else "cudnn",
    )


def _limits(workload: Workload) -> str | None:
    dim = workload.head_dim
    if problem := older_gpu(workload):
        return problem
    if workload.dtype != "bfloat16":
        return f"it computes in bfloat16 alone, and --compute_dtype={workload.dtype}"
    if workload.softcap is not None:
        return "it has no soft cap (attn_logit_softcapping in config.json)"
    if dim > 128 or dim % 8:
        return f"heads have {dim} dimensions; it wants a multiple of 8, at most 128"
    return None


CUDNN = Mechanism(name="cudnn", compute=cudnn_attention, platform="gpu", length_multiple=2, limits=_limits)
