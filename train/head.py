"""The head fused with the loss: no tensor of all positions by the vocabulary ever exists.

The loss is a sum over rows (train/loss.py), so a few rows at a time give their logits, log-probabilities, loss and at
once the gradients, while the logits are at hand: three matrix products where autodiff with recomputation needs four.
Where the logits of a single row are too many for that, log-probabilities come first, a chunk of positions at a time,
and the gradients after them, with the logits made again. Devices along the mesh axis `tensor` take a part of the
vocabulary each. Positions that the loss does not read are left out where it is known that there are many.

Axes: B = rows, L = positions, D = hidden size, V = vocabulary; P = all positions of a device; S = positions of which
logits are held at once.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from train.logits import HeadShard, LabelLogits, label_logits, logits_gradients, put, take
from train.loss import Denominators, Sums
from train.sharding import BATCH_AXES

# RowLoss(logp [L], branch [L], segment [L], totals) -> (loss, sums)
RowLoss = Callable[[jax.Array, jax.Array, jax.Array, Denominators], tuple[jax.Array, Sums]]

# What the float32 logits of a chunk may take; a few arrays of this size live at once.
CHUNK_BYTES = 256 * 2**20
# Up to so much for one row, the fourth product is the dearer choice: 4,096 positions of Llama 3's vocabulary are below.
ROW_BYTES = 2560 * 2**20
# A chunk of rows is compiled for at most so many numbers of positions; the least that holds the needed ones is run.
CHUNK_SIZES = 4
# Matrix units are busy at multiples of this.
TILE = 128


class _Rows(NamedTuple):
    """Rows of a device; see `fused_head_loss`."""

    hidden: jax.Array
    labels: jax.Array
    branch: jax.Array
    segment: jax.Array
    needed: jax.Array | None


class _Result(NamedTuple):
    """Loss and sums, and the gradients of the loss in `hidden` and `head` where they are asked for."""

    loss: jax.Array
    sums: Sums
    hidden_gradient: jax.Array | None
    head_gradient: jax.Array | None


def _losses(logp_BL: jax.Array, rows: _Rows, totals: Denominators, row_loss: RowLoss) -> tuple[jax.Array, Sums]:
    losses, sums = jax.vmap(row_loss, in_axes=(0, 0, 0, None))(logp_BL, rows.branch, rows.segment, totals)
    return jnp.sum(losses), jax.tree.map(jnp.sum, sums)


class _Chunks(NamedTuple):
    """The positions of a device in chunks of S, the needed ones first.

    Attributes:
      index_CS: which position each is; out of bounds where there is none.
      filled: how many chunks hold any.
    """

    index_CS: jax.Array
    filled: jax.Array | int


def _chunks(rows: _Rows, vocab_size: int) -> _Chunks:
    positions = rows.labels.size
    size = min(max(CHUNK_BYTES // (4 * vocab_size) // TILE, 1) * TILE, positions)
    number = -(-positions // size)
    if rows.needed is None:
        return _Chunks(jnp.arange(number * size).reshape(number, size), number)
    (index_P,) = jnp.nonzero(rows.needed.reshape(-1), size=number * size, fill_value=positions)
    return _Chunks(index_P.reshape(number, size), -(-jnp.sum(rows.needed) // size))


def _chunk_logits(rows: _Rows, head: HeadShard, index_S: jax.Array) -> LabelLogits:
    hidden_PD = rows.hidden.reshape(-1, rows.hidden.shape[-1])
    return label_logits(take(hidden_PD, index_S), take(rows.labels.reshape(-1), index_S), head)


def _logp(rows: _Rows, head: HeadShard, chunks: _Chunks) -> jax.Array:
    """Of every needed label, [B, L] float32 or wider, else 0."""

    def one_chunk(chunk: jax.Array | int, logp_P: jax.Array) -> jax.Array:
        index_S = chunks.index_CS[chunk]
        return logp_P.at[index_S].set(_chunk_logits(rows, head, index_S).logp_S, mode="drop")

    zeros_P = jnp.zeros(rows.labels.size, jnp.promote_types(rows.hidden.dtype, jnp.float32))
    return jax.lax.fori_loop(0, chunks.filled, one_chunk, zeros_P).reshape(rows.labels.shape)


def _gradients_after_losses(rows: _Rows, head: HeadShard, totals: Denominators, row_loss: RowLoss) -> _Result:
    """Two passes over chunks of positions, four matrix products: a row may have any number of logits."""
    chunks = _chunks(rows, head.weight_VD.shape[0])
    logp_BL = _logp(rows, head, chunks)
    (loss, sums), slope_BL = jax.value_and_grad(_losses, has_aux=True)(logp_BL, rows, totals, row_loss)

    def one_chunk(chunk: jax.Array | int, gradients: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        index_S = chunks.index_CS[chunk]
        logits = _chunk_logits(rows, head, index_S)
        hidden_SD, head_VD = logits_gradients(logits, take(slope_BL.reshape(-1), index_S), head)
        return gradients[0].at[index_S].set(hidden_SD, mode="drop"), gradients[1] + head_VD

    zeros = (
        jnp.zeros((rows.labels.size, rows.hidden.shape[-1]), rows.hidden.dtype),
        jnp.zeros(head.weight_VD.shape, logp_BL.dtype),
    )
    hidden_gradient, head_gradient = jax.lax.fori_loop(0, chunks.filled, one_chunk, zeros)
    return _Result(loss, sums, hidden_gradient.reshape(rows.hidden.shape), head_gradient)


def _rows_per_chunk(rows: int, length: int, vocab_size: int) -> int:
    """The largest divisor of `rows` that keeps the logits of a chunk within `CHUNK_BYTES`, at least one row."""
    most = max(1, CHUNK_BYTES // (4 * length * vocab_size))
    return next(count for count in range(min(most, rows), 0, -1) if rows % count == 0)


def _chunk_sizes(positions: int) -> list[int]:
    """At most `CHUNK_SIZES` multiples of `TILE`, evenly apart, and `positions` as the last."""
    step = TILE * math.ceil(positions / (TILE * CHUNK_SIZES))
    return [*range(step, positions, step), positions]


def _gradients_with_losses(rows: _Rows, head: HeadShard, totals: Denominators, row_loss: RowLoss) -> _Result:
    """One pass over chunks of rows, three matrix products."""

    def of_positions(size: int, head_gradient_VD: jax.Array, chunk: _Rows) -> tuple[jax.Array, _Result]:
        """Adds the needed positions of a chunk, of which there are at most `size`."""
        positions = chunk.labels.size
        if chunk.needed is None or size == positions:
            logits = label_logits(chunk.hidden.reshape(positions, -1), chunk.labels.reshape(-1), head)
            spread: Callable[[jax.Array, tuple[int, ...]], jax.Array] = jnp.reshape
        else:
            (index_S,) = jnp.nonzero(chunk.needed.reshape(-1), size=size, fill_value=positions)
            logits = _chunk_logits(chunk, head, index_S)
            spread = partial(put, index_S)

        def loss_of(logp_S: jax.Array) -> tuple[jax.Array, Sums]:
            return _losses(spread(logp_S, chunk.labels.shape), chunk, totals, row_loss)

        (loss, sums), slope_S = jax.value_and_grad(loss_of, has_aux=True)(logits.logp_S)
        hidden_SD, added_VD = logits_gradients(logits, slope_S, head)
        return head_gradient_VD + added_VD, _Result(loss, sums, spread(hidden_SD, chunk.hidden.shape), None)

    def one_chunk(head_gradient_VD: jax.Array, chunk: _Rows) -> tuple[jax.Array, _Result]:
        if chunk.needed is None:
            return of_positions(chunk.labels.size, head_gradient_VD, chunk)
        sizes = _chunk_sizes(chunk.labels.size)
        which = jnp.searchsorted(jnp.asarray(sizes), jnp.sum(chunk.needed))
        return jax.lax.switch(which, [partial(of_positions, size) for size in sizes], head_gradient_VD, chunk)

    batch, length = rows.labels.shape
    count = _rows_per_chunk(batch, length, head.weight_VD.shape[0])
    by_chunk = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]), rows)
    start = jnp.zeros(head.weight_VD.shape, jnp.promote_types(rows.hidden.dtype, jnp.float32))
    head_gradient, results = jax.lax.scan(one_chunk, start, by_chunk)
    loss, sums = jax.tree.map(jnp.sum, (results.loss, results.sums))
    assert results.hidden_gradient is not None
    return _Result(loss, sums, results.hidden_gradient.reshape(rows.hidden.shape), head_gradient)


def _vocab_axis(mesh: Mesh, vocab_size: int) -> str | None:
    """The mesh axis that splits the vocabulary, where it can be split evenly."""
    size = mesh.shape["tensor"]
    return "tensor" if size > 1 and vocab_size % size == 0 else None


def _on_mesh(
    mesh: Mesh,
    rows: _Rows,
    head_VD: jax.Array,
    totals: Denominators,
    *,
    row_loss: RowLoss,
    softcap: float | None,
    with_gradients: bool,
) -> _Result:
    """On every device over its own rows; sums and the head's gradient are added up once."""
    vocab_axis = _vocab_axis(mesh, head_VD.shape[0])
    # Where the vocabulary allows it each device keeps the sum of a part, as the head itself lies (train/sharding.py).
    is_scattered = head_VD.shape[0] % (mesh.shape["fsdp"] * (mesh.shape["tensor"] if vocab_axis else 1)) == 0

    def local(rows: _Rows, weight_VD: jax.Array, totals: Denominators) -> _Result:
        head = HeadShard(weight_VD, softcap, vocab_axis)
        if not with_gradients:
            logp_BL = _logp(rows, head, _chunks(rows, weight_VD.shape[0]))
            loss, sums = jax.lax.psum(_losses(logp_BL, rows, totals, row_loss), BATCH_AXES)
            return _Result(loss, sums, None, None)
        is_long = 4 * rows.labels.shape[1] * weight_VD.shape[0] > ROW_BYTES
        gradients = _gradients_after_losses if is_long else _gradients_with_losses
        loss, sums, hidden_gradient, head_gradient = gradients(rows, head, totals, row_loss)
        if is_scattered:
            head_gradient = jax.lax.psum_scatter(head_gradient, "fsdp", scatter_dimension=0, tiled=True)
            head_gradient = jax.lax.psum(head_gradient, "data")
        else:
            head_gradient = jax.lax.psum(head_gradient, BATCH_AXES)
        loss, sums = jax.lax.psum((loss, sums), BATCH_AXES)
        return _Result(loss, sums, hidden_gradient, head_gradient)

    everywhere, by_row, by_word = PartitionSpec(), PartitionSpec(BATCH_AXES), PartitionSpec(vocab_axis)
    scattered = PartitionSpec((*((vocab_axis,) if vocab_axis else ()), "fsdp")) if is_scattered else by_word
    on_each = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(by_row, by_word, everywhere),
        out_specs=_Result._make((everywhere, everywhere, by_row, scattered)),
        check_vma=False,
    )
    return on_each(rows, head_VD.astype(rows.hidden.dtype), totals)


def head_logp(
    hidden_BLD: jax.Array,
    head_VD: jax.Array,
    labels_BL: jax.Array,
    needed_BL: jax.Array | None,
    mesh: Mesh,
    softcap: float | None,
) -> jax.Array:
    """Log-probability of every needed label, [B, L] float32 or wider, else 0; arguments as `fused_head_loss`."""
    vocab_axis = _vocab_axis(mesh, head_VD.shape[0])

    def local(rows: _Rows, weight_VD: jax.Array) -> jax.Array:
        return _logp(rows, HeadShard(weight_VD, softcap, vocab_axis), _chunks(rows, weight_VD.shape[0]))

    by_row = PartitionSpec(BATCH_AXES)
    on_each = jax.shard_map(
        local, mesh=mesh, in_specs=(by_row, PartitionSpec(vocab_axis)), out_specs=by_row, check_vma=False
    )
    rows = _Rows(hidden_BLD, labels_BL, labels_BL, labels_BL, needed_BL)
    return on_each(rows, head_VD.astype(hidden_BLD.dtype))


@partial(jax.custom_vjp, nondiff_argnums=(7, 8, 9))
def fused_head_loss(
    hidden_BLD: jax.Array,
    head_VD: jax.Array,
    labels_BL: jax.Array,
    branch_BL: jax.Array,
    segment_BL: jax.Array,
    needed_BL: jax.Array | None,
    totals: Denominators,
    row_loss: RowLoss,
    mesh: Mesh,
    softcap: float | None,
) -> tuple[jax.Array, Sums]:
    """Sum over rows of `row_loss` of the labels' log-probabilities under `softmax(hidden head^T)`.

    Args:
      hidden_BLD: the decoder's output in the compute dtype; B is a multiple of the mesh's batch axes.
      head_VD: in the param dtype; its gradient is accumulated in float32 or wider, and rounded at the end.
      labels_BL, branch_BL, segment_BL: int32, as `schemas.layout.derive` gives them.
      needed_BL: bool, positions whose log-probability `row_loss` reads; it is given 0 at the others. None: all, which
        is the cheaper where nearly all are read.
      totals: passed on to `row_loss`.
      row_loss: see `train.loss.row_loss`.
      mesh: the device mesh; each device takes its own rows, and its part of the vocabulary along `tensor`.
      softcap: logits x become softcap * tanh(x / softcap); None leaves them.

    Returns: (loss, sums). Differentiable once, in `hidden_BLD` and `head_VD`; the sums carry no gradient.
    """
    rows = _Rows(hidden_BLD, labels_BL, branch_BL, segment_BL, needed_BL)
    result = _on_mesh(mesh, rows, head_VD, totals, row_loss=row_loss, softcap=softcap, with_gradients=False)
    return result.loss, result.sums


def _forward(
    hidden_BLD: jax.Array,
    head_VD: jax.Array,
    labels_BL: jax.Array,
    branch_BL: jax.Array,
    segment_BL: jax.Array,
    needed_BL: jax.Array | None,
    totals: Denominators,
    row_loss: RowLoss,
    mesh: Mesh,
    softcap: float | None,
) -> tuple[tuple[jax.Array, Sums], tuple[jax.Array | None, jax.Array | None]]:
    rows = _Rows(hidden_BLD, labels_BL, branch_BL, segment_BL, needed_BL)
    result = _on_mesh(mesh, rows, head_VD, totals, row_loss=row_loss, softcap=softcap, with_gradients=True)
    assert result.head_gradient is not None
    # As narrow as the weight: a tied one adds the embedding's, which is.
    return (result.loss, result.sums), (result.hidden_gradient, result.head_gradient.astype(head_VD.dtype))


def _backward(
    row_loss: RowLoss,
    mesh: Mesh,
    softcap: float | None,
    gradients: tuple[jax.Array, jax.Array],
    cotangents: tuple[jax.Array, Sums],
) -> tuple[jax.Array | None, ...]:
    hidden_gradient, head_gradient = ((cotangents[0] * gradient).astype(gradient.dtype) for gradient in gradients)
    return hidden_gradient, head_gradient, None, None, None, None, None


fused_head_loss.defvjp(_forward, _backward)
