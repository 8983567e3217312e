"""Head and loss over one device's rows, a chunk at a time: in one pass over rows, or in two over positions.

The loss is a sum over rows (loss/pairs.py), so a few rows at a time give their logits, log-probabilities, loss and at
once the gradients, while the logits are at hand: three matrix products where autodiff with recomputation needs four.
Where the logits of a single row are too many for that, log-probabilities come first, a chunk of positions at a time,
and the gradients after them, with the logits made again.

Axes: B = rows, L = positions, D = hidden size, V = vocabulary; P = all positions of a device; C = chunks; S = positions
of which logits are held at once.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from oddsmill.train.loss.logits import HeadShard, LabelLogits, label_logits, logits_gradients, put, take
from oddsmill.train.loss.pairs import Denominators, Terms

# row_loss(logp [L], branch [L], segment [L], reported, totals) -> (loss, sums), see `oddsmill.train.loss.pairs`
RowLoss = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None, Denominators], tuple[jax.Array, Terms]]

# The float32 logits of a chunk take at most this much; a few arrays of this size live at once.
CHUNK_BYTES = 256 * 2**20
# Above this size of one row's logits the two passes are taken, though their fourth product costs more: 4,096 positions
# of Llama 3's vocabulary are below.
ROW_BYTES = 2560 * 2**20
# A chunk of rows is compiled for at most so many numbers of positions; the least that holds the needed ones is run.
CHUNK_SIZES = 4
# Matrix units are busy at multiples of this.
TILE = 128


class Rows(NamedTuple):
    """Rows of a batch as the head and the loss take them; all of a mesh, or those of one device.

    Attributes:
      hidden: [B, L, D], the decoder's output in the compute dtype.
      labels, branch, segment: [B, L] int32, as `oddsmill.schemas.layout.derive` gives them.
      needed: [B, L] bool, positions whose log-probability the loss reads; it is given 0 at the others. None needs
        all, which is the cheaper where nearly all are read.
      reported: [B] bool, rows whose log-probabilities and rewards are reported; None reports all.
    """

    hidden: jax.Array
    labels: jax.Array
    branch: jax.Array
    segment: jax.Array
    needed: jax.Array | None
    reported: jax.Array | None = None


class Result(NamedTuple):
    """Loss and metric sums of some rows, and where they are asked for the gradients in `hidden` and in the head."""

    loss: jax.Array
    sums: Terms
    hidden_gradient: jax.Array | None
    head_gradient: jax.Array | None


def _losses(logp_BL: jax.Array, rows: Rows, totals: Denominators, row_loss: RowLoss) -> tuple[jax.Array, Terms]:
    over_rows = jax.vmap(row_loss, in_axes=(0, 0, 0, 0, None))
    losses, sums = over_rows(logp_BL, rows.branch, rows.segment, rows.reported, totals)
    return jnp.sum(losses), jax.tree.map(jnp.sum, sums)


class _Chunks(NamedTuple):
    """The positions of a device in chunks of S, the needed ones first.

    Attributes:
      index_CS: the position that each slot of a chunk holds; out of bounds where it holds none.
      filled: the number of chunks that hold any position.
    """

    index_CS: jax.Array
    filled: jax.Array | int


def _chunks(rows: Rows, vocab_size: int) -> _Chunks:
    positions = rows.labels.size
    size = min(max(CHUNK_BYTES // (4 * vocab_size) // TILE, 1) * TILE, positions)
    number = -(-positions // size)
    if rows.needed is None:
        return _Chunks(jnp.arange(number * size).reshape(number, size), number)
    (index_P,) = jnp.nonzero(rows.needed.reshape(-1), size=number * size, fill_value=positions)
    return _Chunks(index_P.reshape(number, size), -(-jnp.sum(rows.needed) // size))


def _chunk_logits(rows: Rows, head: HeadShard, index_S: jax.Array) -> LabelLogits:
    hidden_PD = rows.hidden.reshape(-1, rows.hidden.shape[-1])
    return label_logits(take(hidden_PD, index_S), take(rows.labels.reshape(-1), index_S), head)


def label_logps(rows: Rows, head: HeadShard) -> jax.Array:
    """Returns the log-probability of every needed label and 0 elsewhere, [B, L] float32 or wider."""
    chunks = _chunks(rows, head.weight_VD.shape[0])

    def one_chunk(chunk: jax.Array | int, logp_P: jax.Array) -> jax.Array:
        index_S = chunks.index_CS[chunk]
        return logp_P.at[index_S].set(_chunk_logits(rows, head, index_S).logp_S, mode="drop")

    zeros_P = jnp.zeros(rows.labels.size, jnp.promote_types(rows.hidden.dtype, jnp.float32))
    return jax.lax.fori_loop(0, chunks.filled, one_chunk, zeros_P).reshape(rows.labels.shape)


def _gradients_after_losses(rows: Rows, head: HeadShard, totals: Denominators, row_loss: RowLoss) -> Result:
    """Takes two passes over chunks of positions, four matrix products: a row may have any number of logits."""
    chunks = _chunks(rows, head.weight_VD.shape[0])
    logp_BL = label_logps(rows, head)
    (loss, sums), grad_BL = jax.value_and_grad(_losses, has_aux=True)(logp_BL, rows, totals, row_loss)

    def one_chunk(chunk: jax.Array | int, gradients: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        index_S = chunks.index_CS[chunk]
        logits = _chunk_logits(rows, head, index_S)
        hidden_SD, head_VD = logits_gradients(logits, take(grad_BL.reshape(-1), index_S), head)
        return gradients[0].at[index_S].set(hidden_SD, mode="drop"), gradients[1] + head_VD

    zeros = (
        jnp.zeros((rows.labels.size, rows.hidden.shape[-1]), rows.hidden.dtype),
        jnp.zeros(head.weight_VD.shape, logp_BL.dtype),
    )
    hidden_gradient, head_gradient = jax.lax.fori_loop(0, chunks.filled, one_chunk, zeros)
    return Result(loss, sums, hidden_gradient.reshape(rows.hidden.shape), head_gradient)


def _rows_per_chunk(rows: int, length: int, vocab_size: int) -> int:
    """Returns the largest divisor of `rows` that keeps the logits of a chunk within `CHUNK_BYTES`, at least 1."""
    most = max(1, CHUNK_BYTES // (4 * length * vocab_size))
    return next(count for count in range(min(most, rows), 0, -1) if rows % count == 0)


def _chunk_sizes(positions: int) -> list[int]:
    """Returns at most `CHUNK_SIZES` multiples of `TILE`, evenly apart, with `positions` as the last."""
    step = TILE * math.ceil(positions / (TILE * CHUNK_SIZES))
    return [*range(step, positions, step), positions]


def _gradients_with_losses(rows: Rows, head: HeadShard, totals: Denominators, row_loss: RowLoss) -> Result:
    """Takes one pass over chunks of rows, three matrix products."""

    def add_positions(size: int, head_gradient_VD: jax.Array, chunk: Rows) -> tuple[jax.Array, Result]:
        """Adds the needed positions of a chunk, of which there are at most `size`."""
        positions = chunk.labels.size
        if chunk.needed is None or size == positions:
            logits = label_logits(chunk.hidden.reshape(positions, -1), chunk.labels.reshape(-1), head)
            spread: Callable[[jax.Array, tuple[int, ...]], jax.Array] = jnp.reshape
        else:
            (index_S,) = jnp.nonzero(chunk.needed.reshape(-1), size=size, fill_value=positions)
            logits = _chunk_logits(chunk, head, index_S)
            spread = partial(put, index_S)

        def chunk_loss(logp_S: jax.Array) -> tuple[jax.Array, Terms]:
            return _losses(spread(logp_S, chunk.labels.shape), chunk, totals, row_loss)

        (loss, sums), grad_S = jax.value_and_grad(chunk_loss, has_aux=True)(logits.logp_S)
        hidden_SD, added_VD = logits_gradients(logits, grad_S, head)
        return head_gradient_VD + added_VD, Result(loss, sums, spread(hidden_SD, chunk.hidden.shape), None)

    def one_chunk(head_gradient_VD: jax.Array, chunk: Rows) -> tuple[jax.Array, Result]:
        if chunk.needed is None:
            return add_positions(chunk.labels.size, head_gradient_VD, chunk)
        sizes = _chunk_sizes(chunk.labels.size)
        which = jnp.searchsorted(jnp.asarray(sizes), jnp.sum(chunk.needed))
        return jax.lax.switch(which, [partial(add_positions, size) for size in sizes], head_gradient_VD, chunk)

    batch, length = rows.labels.shape
    count = _rows_per_chunk(batch, length, head.weight_VD.shape[0])
    by_chunk = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]), rows)
    start = jnp.zeros(head.weight_VD.shape, jnp.promote_types(rows.hidden.dtype, jnp.float32))
    head_gradient, results = jax.lax.scan(one_chunk, start, by_chunk)
    loss, sums = jax.tree.map(jnp.sum, (results.loss, results.sums))
    assert results.hidden_gradient is not None
    return Result(loss, sums, results.hidden_gradient.reshape(rows.hidden.shape), head_gradient)


def losses_and_gradients(rows: Rows, head: HeadShard, totals: Denominators, row_loss: RowLoss) -> Result:
    """Returns loss, metric sums and gradients of one device's rows. The head's gradient is at least float32."""
    is_long = 4 * rows.labels.shape[1] * head.weight_VD.shape[0] > ROW_BYTES
    return (_gradients_after_losses if is_long else _gradients_with_losses)(rows, head, totals, row_loss)


def losses_alone(rows: Rows, head: HeadShard, totals: Denominators, row_loss: RowLoss) -> Result:
    """Returns loss and metric sums of one device's rows, without gradients."""
    return Result(*_losses(label_logps(rows, head), rows, totals, row_loss), None, None)
