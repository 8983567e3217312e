"""The head fused with the loss: no tensor of all positions by the vocabulary ever exists.

Each device takes its own rows, a chunk at a time (loss/head_passes.py), and along the mesh axis `tensor` a part of the
vocabulary. Gradients are made along with the loss.

Axes: B = rows, L = positions, D = hidden size, V = vocabulary.
"""

from functools import partial

import jax
from jax.sharding import Mesh, PartitionSpec

from oddsmill.train.loss.head_passes import Result, RowLoss, Rows, label_logps, losses_alone, losses_and_gradients
from oddsmill.train.loss.logits import HeadShard
from oddsmill.train.loss.pairs import Denominators, Terms
from oddsmill.train.parallel.sharding import BATCH_AXES


def _vocab_axis(mesh: Mesh, vocab_size: int) -> str | None:
    """Returns the mesh axis that splits the vocabulary, or None where it cannot be split evenly."""
    size = mesh.shape["tensor"]
    return "tensor" if size > 1 and vocab_size % size == 0 else None


def _on_mesh(
    mesh: Mesh,
    rows: Rows,
    head_VD: jax.Array,
    totals: Denominators,
    *,
    row_loss: RowLoss,
    softcap: float | None,
    with_gradients: bool,
) -> Result:
    """Computes every device's own rows, then adds up the loss, the sums and the head's gradient once."""
    vocab_axis = _vocab_axis(mesh, head_VD.shape[0])
    # Where the vocabulary allows it each device keeps the sum of a part, as the head itself lies.
    parts = mesh.shape["fsdp"] * (mesh.shape["tensor"] if vocab_axis else 1)
    is_scattered = mesh.shape["fsdp"] > 1 and head_VD.shape[0] % parts == 0

    def local(rows: Rows, weight_VD: jax.Array, totals: Denominators) -> Result:
        head = HeadShard(weight_VD, softcap, vocab_axis)
        result = (losses_and_gradients if with_gradients else losses_alone)(rows, head, totals, row_loss)
        loss, sums = jax.lax.psum((result.loss, result.sums), BATCH_AXES)
        head_gradient = result.head_gradient
        if head_gradient is not None and is_scattered:
            head_gradient = jax.lax.psum_scatter(head_gradient, "fsdp", scatter_dimension=0, tiled=True)
            head_gradient = jax.lax.psum(head_gradient, "data")
        else:
            head_gradient = jax.lax.psum(head_gradient, BATCH_AXES)
        return Result(loss, sums, result.hidden_gradient, head_gradient)

    everywhere, by_row, by_word = PartitionSpec(), PartitionSpec(BATCH_AXES), PartitionSpec(vocab_axis)
    scattered = PartitionSpec((*((vocab_axis,) if vocab_axis else ()), "fsdp")) if is_scattered else by_word
    on_each = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(by_row, by_word, everywhere),
        out_specs=Result._make((everywhere, everywhere, by_row, scattered)),
        check_vma=False,
    )
    return on_each(rows, head_VD.astype(rows.hidden.dtype), totals)


def head_logp(rows: Rows, head_VD: jax.Array, mesh: Mesh, softcap: float | None) -> jax.Array:
    """Returns the log-probability of every needed label and 0 elsewhere, [B, L] float32 or wider.

    Args: as in `fused_head_loss`.
    """
    vocab_axis = _vocab_axis(mesh, head_VD.shape[0])

    def local(rows: Rows, weight_VD: jax.Array) -> jax.Array:
        return label_logps(rows, HeadShard(weight_VD, softcap, vocab_axis))

    by_row = PartitionSpec(BATCH_AXES)
    on_each = jax.shard_map(
        local, mesh=mesh, in_specs=(by_row, PartitionSpec(vocab_axis)), out_specs=by_row, check_vma=False
    )
    return on_each(rows, head_VD.astype(rows.hidden.dtype))


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def fused_head_loss(
    rows: Rows,
    head_VD: jax.Array,
    totals: Denominators,
    row_loss: RowLoss,
    mesh: Mesh,
    softcap: float | None,
) -> tuple[jax.Array, Terms]:
    """Adds up over rows the `row_loss` of the labels' log-probabilities under `softmax(hidden head^T)`.

    Args:
      rows: B is a multiple of the mesh's batch axes.
      head_VD: in the param dtype; its gradient is accumulated in float32 or wider, and rounded at the end.
      totals: the denominators of the whole optimizer batch, which `row_loss` is given.
      row_loss: the loss of one row, see `oddsmill.train.loss.pairs.row_loss`.
      mesh: the device mesh; each device takes its own rows, and its part of the vocabulary along `tensor`.
      softcap: logits x become softcap * tanh(x / softcap); None leaves them.

    Returns: (loss, sums). Differentiable once, in `rows.hidden` and `head_VD`; the sums carry no gradient.
    """
    result = _on_mesh(mesh, rows, head_VD, totals, row_loss=row_loss, softcap=softcap, with_gradients=False)
    return result.loss, result.sums


def _forward(
    rows: Rows,
    head_VD: jax.Array,
    totals: Denominators,
    row_loss: RowLoss,
    mesh: Mesh,
    softcap: float | None,
) -> tuple[tuple[jax.Array, Terms], tuple[jax.Array | None, jax.Array | None]]:
    result = _on_mesh(mesh, rows, head_VD, totals, row_loss=row_loss, softcap=softcap, with_gradients=True)
    assert result.head_gradient is not None
    # As narrow as the weight: a tied one adds the embedding's, which is.
    return (result.loss, result.sums), (result.hidden_gradient, result.head_gradient.astype(head_VD.dtype))


def _backward(
    row_loss: RowLoss,
    mesh: Mesh,
    softcap: float | None,
    gradients: tuple[jax.Array, jax.Array],
    cotangents: tuple[jax.Array, Terms],
) -> tuple[Rows, jax.Array, None]:
    hidden_gradient, head_gradient = ((cotangents[0] * gradient).astype(gradient.dtype) for gradient in gradients)
    return Rows._make([hidden_gradient, *[None] * (len(Rows._fields) - 1)]), head_gradient, None


fused_head_loss.defvjp(_forward, _backward)
