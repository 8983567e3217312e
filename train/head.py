"""The head fused with the loss: no tensor of all positions by the vocabulary ever exists.

Rows are taken a few at a time, and devices along the mesh axis `tensor` take a part of the vocabulary each. For
each, logits, log-probabilities, the loss of the row and at once the gradients are made, while the logits are at
hand: three matrix products where autodiff with recomputation needs four. This works because the loss is a sum
over rows (train/loss.py).

Axes: B = rows, L = positions, D = hidden size, V = vocabulary; T = the positions of one chunk of rows.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from train.loss import Denominators, Sums
from train.model import softcapped
from train.sharding import BATCH_AXES

# RowLoss(logp [L], branch [L], segment [L], totals) -> (loss, sums)
RowLoss = Callable[[jax.Array, jax.Array, jax.Array, Denominators], tuple[jax.Array, Sums]]

# What the float32 logits of a chunk may take; a few arrays of this size live at once. A chunk is at least a row.
CHUNK_BYTES = 256 * 2**20


def label_logp(logits_TV: jax.Array, labels_T: jax.Array, vocab_axis: str | None = None) -> tuple[jax.Array, jax.Array]:
    """Log-probability of each label and the log-sum-exp, both [T] in the logits' dtype.

    Args:
      labels_T: columns of the logits; with a `vocab_axis` those of other devices lie outside.
      vocab_axis: the mesh axis over whose devices the vocabulary is split; None: the logits have all of it.
    """
    lse_T = jax.nn.logsumexp(logits_TV, axis=-1)
    if vocab_axis is None:
        return jnp.take_along_axis(logits_TV, labels_T[:, None], axis=-1)[:, 0] - lse_T, lse_T
    highest_T = jax.lax.pmax(lse_T, vocab_axis)
    lse_T = highest_T + jnp.log(jax.lax.psum(jnp.exp(lse_T - highest_T), vocab_axis))
    inside_T = (labels_T >= 0) & (labels_T < logits_TV.shape[-1])
    label_logit_T = jnp.take_along_axis(logits_TV, jnp.where(inside_T, labels_T, 0)[:, None], axis=-1)[:, 0]
    return jax.lax.psum(jnp.where(inside_T, label_logit_T, 0), vocab_axis) - lse_T, lse_T


def _rows_per_chunk(rows: int, length: int, vocab_size: int) -> int:
    """The largest divisor of `rows` that keeps the logits of a chunk within `CHUNK_BYTES`, at least one row."""
    most = max(1, CHUNK_BYTES // (4 * length * vocab_size))
    return next(count for count in range(min(most, rows), 0, -1) if rows % count == 0)


class _Arguments(NamedTuple):
    """What the loss is a function of; see `fused_head_loss`."""

    hidden: jax.Array
    head: jax.Array
    labels: jax.Array
    branch: jax.Array
    segment: jax.Array
    totals: Denominators


class _Result(NamedTuple):
    """Loss and sums, and the gradients of the loss in `hidden` and `head` where they are asked for."""

    loss: jax.Array
    sums: Sums
    hidden_gradient: jax.Array | None
    head_gradient: jax.Array | None


def _vocab_axis(mesh: Mesh, vocab_size: int) -> str | None:
    """The mesh axis that splits the vocabulary, where it can be split evenly."""
    size = mesh.shape["tensor"]
    return "tensor" if size > 1 and vocab_size % size == 0 else None


def _own_columns(labels: jax.Array, head_VD: jax.Array, vocab_axis: str | None) -> jax.Array:
    """Labels as columns of this device's part of the vocabulary; those of other devices lie outside."""
    return labels if vocab_axis is None else labels - jax.lax.axis_index(vocab_axis) * head_VD.shape[0]


def _scan_rows(
    arguments: _Arguments, *, row_loss: RowLoss, softcap: float | None, vocab_axis: str | None, with_gradients: bool
) -> _Result:
    """The loss over the rows of one device, a few rows at a time."""
    rows, length, dim = arguments.hidden.shape
    count = _rows_per_chunk(rows, length, arguments.head.shape[0])
    compute_dtype = arguments.hidden.dtype
    wide = jnp.promote_types(compute_dtype, jnp.float32)
    head_VD = arguments.head.astype(compute_dtype)

    def chunk_loss(logp_T: jax.Array, branch_CL: jax.Array, segment_CL: jax.Array) -> tuple[jax.Array, Sums]:
        logp_CL = logp_T.reshape(count, length)
        losses, sums = jax.vmap(row_loss, in_axes=(0, 0, 0, None))(logp_CL, branch_CL, segment_CL, arguments.totals)
        return jnp.sum(losses), jax.tree.map(jnp.sum, sums)

    def one_chunk(head_gradient: jax.Array | None, chunk: tuple[jax.Array, ...]) -> tuple[jax.Array | None, _Result]:
        hidden_CLD, labels_CL, branch_CL, segment_CL = chunk
        hidden_TD, labels_T = hidden_CLD.reshape(-1, dim), _own_columns(labels_CL.reshape(-1), head_VD, vocab_axis)
        logits_TV = softcapped(jnp.einsum("td,vd->tv", hidden_TD, head_VD, preferred_element_type=wide), softcap)
        logp_T, lse_T = label_logp(logits_TV, labels_T, vocab_axis)
        if head_gradient is None:
            return None, _Result(*chunk_loss(logp_T, branch_CL, segment_CL), None, None)
        (loss, sums), slope_T = jax.value_and_grad(chunk_loss, has_aux=True)(logp_T, branch_CL, segment_CL)
        is_label_TV = jnp.arange(head_VD.shape[0]) == labels_T[:, None]
        logits_gradient_TV = slope_T[:, None] * (is_label_TV - jnp.exp(logits_TV - lse_T[:, None]))
        if softcap is not None:  # the derivative of softcap * tanh(x / softcap)
            logits_gradient_TV *= 1 - (logits_TV / softcap) ** 2
        logits_gradient_TV = logits_gradient_TV.astype(compute_dtype)
        hidden_gradient = jnp.einsum("tv,vd->td", logits_gradient_TV, head_VD).reshape(hidden_CLD.shape)
        if vocab_axis is not None:
            hidden_gradient = jax.lax.psum(hidden_gradient, vocab_axis)
        head_gradient += jnp.einsum("tv,td->vd", logits_gradient_TV, hidden_TD, preferred_element_type=wide)
        return head_gradient, _Result(loss, sums, hidden_gradient, None)

    chunks = jax.tree.map(
        lambda x: x.reshape(rows // count, count, *x.shape[1:]),
        (arguments.hidden, arguments.labels, arguments.branch, arguments.segment),
    )
    start = jnp.zeros(head_VD.shape, wide) if with_gradients else None
    head_gradient, results = jax.lax.scan(one_chunk, start, chunks)
    hidden_gradient = results.hidden_gradient
    if hidden_gradient is not None:
        hidden_gradient = hidden_gradient.reshape(arguments.hidden.shape)
    loss, sums = jax.tree.map(jnp.sum, (results.loss, results.sums))
    return _Result(loss, sums, hidden_gradient, head_gradient)


def _on_mesh(
    mesh: Mesh, arguments: _Arguments, *, row_loss: RowLoss, softcap: float | None, with_gradients: bool
) -> _Result:
    """`_scan_rows` on every device over its own rows; sums and the head's gradient are added up once."""
    vocab_axis = _vocab_axis(mesh, arguments.head.shape[0])

    def local(arguments: _Arguments) -> _Result:
        loss, sums, hidden_gradient, head_gradient = _scan_rows(
            arguments, row_loss=row_loss, softcap=softcap, vocab_axis=vocab_axis, with_gradients=with_gradients
        )
        loss, sums, head_gradient = jax.lax.psum((loss, sums, head_gradient), BATCH_AXES)
        return _Result(loss, sums, hidden_gradient, head_gradient)

    everywhere, rows, head = PartitionSpec(), PartitionSpec(BATCH_AXES), PartitionSpec(vocab_axis)
    in_specs = _Arguments._make((rows, head, rows, rows, rows, everywhere))
    out_specs = _Result._make((everywhere, everywhere, rows, head))
    return jax.shard_map(local, mesh=mesh, in_specs=(in_specs,), out_specs=out_specs, check_vma=False)(arguments)


def head_logp(
    hidden_BLD: jax.Array, head_VD: jax.Array, labels_BL: jax.Array, mesh: Mesh, softcap: float | None
) -> jax.Array:
    """Log-probability of every label, [B, L] float32 or wider, a few rows at a time; arguments as `fused_head_loss`."""
    vocab_axis = _vocab_axis(mesh, head_VD.shape[0])

    def local(hidden_BLD: jax.Array, head_VD: jax.Array, labels_BL: jax.Array) -> jax.Array:
        (rows, length, dim), wide = hidden_BLD.shape, jnp.promote_types(hidden_BLD.dtype, jnp.float32)
        count = _rows_per_chunk(rows, length, head_VD.shape[0])
        columns_BL, head_VD = _own_columns(labels_BL, head_VD, vocab_axis), head_VD.astype(hidden_BLD.dtype)

        def one_chunk(chunk: tuple[jax.Array, jax.Array]) -> jax.Array:
            hidden_TD, columns_T = chunk[0].reshape(-1, dim), chunk[1].reshape(-1)
            logits_TV = softcapped(jnp.einsum("td,vd->tv", hidden_TD, head_VD, preferred_element_type=wide), softcap)
            return label_logp(logits_TV, columns_T, vocab_axis)[0].reshape(count, length)

        chunks = hidden_BLD.reshape(-1, count, length, dim), columns_BL.reshape(-1, count, length)
        return jax.lax.map(one_chunk, chunks).reshape(rows, length)

    rows = PartitionSpec(BATCH_AXES)
    in_specs = rows, PartitionSpec(vocab_axis), rows
    on_each = jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=rows, check_vma=False)
    return on_each(hidden_BLD, head_VD, labels_BL)


@partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def fused_head_loss(
    hidden_BLD: jax.Array,
    head_VD: jax.Array,
    labels_BL: jax.Array,
    branch_BL: jax.Array,
    segment_BL: jax.Array,
    totals: Denominators,
    row_loss: RowLoss,
    mesh: Mesh,
    softcap: float | None,
) -> tuple[jax.Array, Sums]:
    """Sum over rows of `row_loss` of the labels' log-probabilities under `softmax(hidden head^T)`.

    Args:
      hidden_BLD: the decoder's output in the compute dtype; B is a multiple of the mesh's batch axes.
      head_VD: in the param dtype; its gradient is accumulated in float32 or wider.
      labels_BL, branch_BL, segment_BL: int32, as `schemas.layout.derive` gives them.
      totals: passed on to `row_loss`.
      row_loss: see `train.loss.row_loss`.
      mesh: the device mesh; each device takes its own rows, and its part of the vocabulary along `tensor`.
      softcap: logits x become softcap * tanh(x / softcap); None leaves them.

    Returns: (loss, sums). Differentiable once, in `hidden_BLD` and `head_VD`; the sums carry no gradient.
    """
    arguments = _Arguments(hidden_BLD, head_VD, labels_BL, branch_BL, segment_BL, totals)
    result = _on_mesh(mesh, arguments, row_loss=row_loss, softcap=softcap, with_gradients=False)
    return result.loss, result.sums


def _forward(
    hidden_BLD: jax.Array,
    head_VD: jax.Array,
    labels_BL: jax.Array,
    branch_BL: jax.Array,
    segment_BL: jax.Array,
    totals: Denominators,
    row_loss: RowLoss,
    mesh: Mesh,
    softcap: float | None,
) -> tuple[tuple[jax.Array, Sums], tuple[jax.Array | None, jax.Array | None]]:
    arguments = _Arguments(hidden_BLD, head_VD, labels_BL, branch_BL, segment_BL, totals)
    result = _on_mesh(mesh, arguments, row_loss=row_loss, softcap=softcap, with_gradients=True)
    return (result.loss, result.sums), (result.hidden_gradient, result.head_gradient)


def _backward(
    row_loss: RowLoss,
    mesh: Mesh,
    softcap: float | None,
    gradients: tuple[jax.Array, jax.Array],
    cotangents: tuple[jax.Array, Sums],
) -> tuple[jax.Array | None, ...]:
    hidden_gradient, head_gradient = ((cotangents[0] * gradient).astype(gradient.dtype) for gradient in gradients)
    return hidden_gradient, head_gradient, None, None, None, None


fused_head_loss.defvjp(_forward, _backward)
