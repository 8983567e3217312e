"""The head fused with the loss: no tensor of all positions by the vocabulary ever exists.

Rows are taken a few at a time. For each, logits, log-probabilities, the loss of the row and at once the
gradients are made, while the logits are at hand: three matrix products where autodiff with recomputation
needs four. This works because the loss is a sum over rows (train/loss.py).

Axes: B = rows, L = positions, D = hidden size, V = vocabulary; T = the positions of one chunk of rows.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from train.loss import Denominators, Sums
from train.sharding import BATCH_AXES

# RowLoss(logp [L], branch [L], segment [L], totals) -> (loss, sums)
RowLoss = Callable[[jax.Array, jax.Array, jax.Array, Denominators], tuple[jax.Array, Sums]]

# What the float32 logits of a chunk may take; a few arrays of this size live at once. A chunk is at least a row.
CHUNK_BYTES = 256 * 2**20


def label_logp(logits_TV: jax.Array, labels_T: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log-probability of each label and the log-sum-exp, both [T] in the logits' dtype."""
    lse_T = jax.nn.logsumexp(logits_TV, axis=-1)
    return jnp.take_along_axis(logits_TV, labels_T[:, None], axis=-1)[:, 0] - lse_T, lse_T


def _rows_per_chunk(rows: int, length: int, vocab_size: int) -> int:
    """The largest divisor of `rows` that keeps the logits of a chunk within `CHUNK_BYTES`, at least one row."""
    most = max(1, CHUNK_BYTES // (4 * length * vocab_size))
    return next(count for count in range(min(most, rows), 0, -1) if rows % count == 0)


def _scan_rows(
    hidden_BLD: jax.Array,
    head_VD: jax.Array,
    labels_BL: jax.Array,
    branch_BL: jax.Array,
    segment_BL: jax.Array,
    totals: Denominators,
    *,
    row_loss: RowLoss,
    with_gradients: bool,
) -> tuple[jax.Array, Sums, jax.Array | None, jax.Array | None]:
    """Loss, sums and, if asked for, the gradients of the loss in `hidden_BLD` and `head_VD`."""
    rows, length, dim = hidden_BLD.shape
    count = _rows_per_chunk(rows, length, head_VD.shape[0])
    wide = jnp.promote_types(hidden_BLD.dtype, jnp.float32)
    head = head_VD.astype(hidden_BLD.dtype)

    def chunk_loss(logp_T: jax.Array, branch_CL: jax.Array, segment_CL: jax.Array) -> tuple[jax.Array, Sums]:
        logp_CL = logp_T.reshape(count, length)
        losses, sums = jax.vmap(row_loss, in_axes=(0, 0, 0, None))(logp_CL, branch_CL, segment_CL, totals)
        return jnp.sum(losses), jax.tree.map(jnp.sum, sums)

    def one_chunk(head_gradient: jax.Array | None, chunk: tuple[jax.Array, ...]) -> tuple:
        hidden_CLD, labels_CL, branch_CL, segment_CL = chunk
        hidden_TD, labels_T = hidden_CLD.reshape(-1, dim), labels_CL.reshape(-1)
        logits_TV = jnp.einsum("td,vd->tv", hidden_TD, head, preferred_element_type=wide)
        logp_T, lse_T = label_logp(logits_TV, labels_T)
        if not with_gradients:
            return None, (*chunk_loss(logp_T, branch_CL, segment_CL), None)
        (loss, sums), slope_T = jax.value_and_grad(chunk_loss, has_aux=True)(logp_T, branch_CL, segment_CL)
        is_label_TV = jnp.arange(head.shape[0]) == labels_T[:, None]
        logits_gradient_TV = slope_T[:, None] * (is_label_TV - jnp.exp(logits_TV - lse_T[:, None]))
        logits_gradient_TV = logits_gradient_TV.astype(hidden_BLD.dtype)
        hidden_gradient = jnp.einsum("tv,vd->td", logits_gradient_TV, head).reshape(hidden_CLD.shape)
        head_gradient += jnp.einsum("tv,td->vd", logits_gradient_TV, hidden_TD, preferred_element_type=wide)
        return head_gradient, (loss, sums, hidden_gradient)

    chunks = jax.tree.map(
        lambda x: x.reshape(rows // count, count, *x.shape[1:]), (hidden_BLD, labels_BL, branch_BL, segment_BL)
    )
    start = jnp.zeros(head.shape, wide) if with_gradients else None
    head_gradient, (losses, sums, hidden_gradient) = jax.lax.scan(one_chunk, start, chunks)
    if hidden_gradient is not None:
        hidden_gradient = hidden_gradient.reshape(hidden_BLD.shape)
    return jnp.sum(losses), jax.tree.map(jnp.sum, sums), hidden_gradient, head_gradient


def _on_mesh(
    mesh: Mesh, row_loss: RowLoss, with_gradients: bool, *arguments: jax.Array | Denominators
) -> tuple[jax.Array, Sums, jax.Array | None, jax.Array | None]:
    """`_scan_rows` on every device over its own rows; sums and the head's gradient are added up once."""

    def local(*local_arguments: jax.Array | Denominators) -> tuple:
        loss, sums, hidden_gradient, head_gradient = _scan_rows(
            *local_arguments, row_loss=row_loss, with_gradients=with_gradients
        )
        loss, sums, head_gradient = jax.lax.psum((loss, sums, head_gradient), BATCH_AXES)
        return loss, sums, hidden_gradient, head_gradient

    everywhere, rows = PartitionSpec(), PartitionSpec(BATCH_AXES)
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(rows, everywhere, rows, rows, rows, everywhere),
        out_specs=(everywhere, everywhere, rows, everywhere),
        check_vma=False,
    )(*arguments)


@partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def fused_head_loss(
    hidden_BLD: jax.Array,
    head_VD: jax.Array,
    labels_BL: jax.Array,
    branch_BL: jax.Array,
    segment_BL: jax.Array,
    totals: Denominators,
    row_loss: RowLoss,
    mesh: Mesh,
) -> tuple[jax.Array, Sums]:
    """Sum over rows of `row_loss` of the labels' log-probabilities under `softmax(hidden head^T)`.

    Args:
      hidden_BLD: the decoder's output in the compute dtype; B is a multiple of the mesh's batch axes.
      head_VD: in the param dtype; its gradient is accumulated in float32 or wider.
      labels_BL, branch_BL, segment_BL: int32, as `schemas.layout.derive` gives them.
      totals: passed on to `row_loss`.
      row_loss: see `train.loss.row_loss`.
      mesh: the device mesh; each device takes its own rows.

    Returns: (loss, sums). Differentiable once, in `hidden_BLD` and `head_VD`; the sums carry no gradient.
    """
    arguments = (hidden_BLD, head_VD, labels_BL, branch_BL, segment_BL, totals)
    return _on_mesh(mesh, row_loss, False, *arguments)[:2]


def _forward(
    hidden_BLD: jax.Array,
    head_VD: jax.Array,
    labels_BL: jax.Array,
    branch_BL: jax.Array,
    segment_BL: jax.Array,
    totals: Denominators,
    row_loss: RowLoss,
    mesh: Mesh,
) -> tuple[tuple[jax.Array, Sums], tuple[jax.Array, jax.Array]]:
    arguments = (hidden_BLD, head_VD, labels_BL, branch_BL, segment_BL, totals)
    loss, sums, hidden_gradient, head_gradient = _on_mesh(mesh, row_loss, True, *arguments)
    return (loss, sums), (hidden_gradient, head_gradient.astype(head_VD.dtype))


def _backward(
    row_loss: RowLoss, mesh: Mesh, gradients: tuple[jax.Array, jax.Array], cotangents: tuple[jax.Array, Sums]
) -> tuple:
    scale = cotangents[0]
    hidden_gradient, head_gradient = ((scale * gradient).astype(gradient.dtype) for gradient in gradients)
    return hidden_gradient, head_gradient, None, None, None, None


fused_head_loss.defvjp(_forward, _backward)
