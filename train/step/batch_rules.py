"""How rows become optimizer steps and micro-batches: our rules, and those of TRL for compat=trl.

Axes: B = rows of a step, K = micro-batches, L = positions of a row.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.layout import PADDING
from oddsmill.train.loss.pairs import Denominators
from oddsmill.train.parallel.sharding import BATCH_AXES

Batch = dict[str, jax.Array]  # each [B, L] int32; `reported`, if it is there, [B] bool


class SplitBatch(NamedTuple):
    """The rows of a step as micro-batches, stacked on a leading axis K, and the denominators of each, [K]."""

    batches: Batch
    totals: Denominators


class BatchRules(NamedTuple):
    """The rules of a run.

    Attributes:
      empty_rows: (rows of an epoch, rows of a step) -> the rows of padding that each epoch ends with.
      split_batch: (the rows of a step, micro_batches, denominators_of, mesh) -> the micro-batches.
      check_processes: refuses a number of processes for which the rules do not hold.
    """

    empty_rows: Callable[[int, int], int]
    split_batch: Callable[[Batch, int, Callable[[Batch], Denominators], Mesh], SplitBatch]
    check_processes: Callable[[int], None]


def batch_rules(compat: Literal["trl"] | None) -> BatchRules:
    """Returns TRL's rules for compat=trl, else ours; nothing else in the trainer asks for `compat`."""
    if compat == "trl":
        return BatchRules(_trl_empty_rows, split_batch_as_trl, _trl_check_processes)
    return BatchRules(lambda rows, rows_per_step: 0, split_batch, lambda count: None)


def split_batch(
    batch: Batch, micro_batches: int, denominators_of: Callable[[Batch], Denominators], mesh: Mesh
) -> SplitBatch:
    """Splits so that the loss does not depend on the micro-batches: all have the denominators of the whole step.

    Every micro-batch takes every K-th row, so that rows stay on the device where they lie.
    """
    totals = denominators_of(batch)
    batches = {name: x.reshape(-1, micro_batches, *x.shape[1:]).swapaxes(0, 1) for name, x in batch.items()}
    return SplitBatch(batches, jax.tree.map(lambda total: jnp.broadcast_to(total, micro_batches), totals))


def split_batch_as_trl(
    batch: Batch, micro_batches: int, denominators_of: Callable[[Batch], Denominators], mesh: Mesh
) -> SplitBatch:
    """Splits into consecutive rows, as TRL does, so that the step's loss is the mean of the micro-batches' losses.

    Each micro-batch has its own denominators, times the number of those that hold a row. Where an epoch ends with a
    micro-batch of r rows, TRL logs logps/* and rewards/* of the first r rows of each micro-batch of that step alone
    (accelerate's gather_for_metrics cuts them, having seen the end of the data): `reported` is false for the others.
    """
    batches = {name: x.reshape(micro_batches, -1, *x.shape[1:]) for name, x in batch.items()}
    batches = jax.lax.with_sharding_constraint(batches, NamedSharding(mesh, PartitionSpec(None, BATCH_AXES)))
    size = batches["branch"].shape[1]
    rest = jnp.sum(jnp.any(batches["branch"] != PADDING, axis=-1)) % size
    is_reported = (rest == 0) | (jnp.arange(size) < rest)
    batches["reported"] = jnp.broadcast_to(is_reported, (micro_batches, size))
    own = jax.vmap(denominators_of)(batches)
    count = jnp.sum(own.pairs > 0)
    return SplitBatch(batches, jax.tree.map(lambda total: jnp.maximum(total, 1) * count, own))


def _trl_empty_rows(rows: int, rows_per_step: int) -> int:
    """Fills up the last step of an epoch: no step of TRL's holds rows of two epochs."""
    return -rows % rows_per_step


def _trl_check_processes(count: int) -> None:
    if count > 1:
        raise Refused("--compat=trl: takes the steps of one process; leave it out, or start one process")
