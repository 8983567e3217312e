"""The dump of a step whose loss or gradient is not finite: its pairs, and which of its rows are not finite alone."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from oddsmill.schemas.files import publish_text
from oddsmill.train.data.loader import DEVICE_ARRAYS, Batch, empty_row
from oddsmill.train.monitor.sinks import explain_write_errors
from oddsmill.train.parallel.sharding import put_on_mesh
from oddsmill.train.step.step import Objective


def hex_ids(pair_ids: np.ndarray) -> list[str]:
    """Returns pair ids as `inspect` and `explain` write them, without the padding's 0."""
    return [f"{pair_id:016x}" for pair_id in pair_ids.ravel().tolist() if pair_id]


class RowAlone(NamedTuple):
    """Loss and gradient norm of a row as if it were the whole batch."""

    loss: float
    grad_norm: float

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def write_dump(
    path: Path, *, data: str, step: int, values: Mapping[str, float], batch: Batch, alone: Sequence[RowAlone] | None
) -> None:
    """Writes a JSON file of the step for `oddsmill pipeline explain --dump=FILE`.

    Args:
      data: the folder of the rows.
      values: the step's metrics.
      batch: the rows that this process holds of the step.
      alone: each of them measured alone; None where that was not possible.
    """
    rows = []
    for index, pair_ids in enumerate(batch["pair_ids"]):
        row: dict[str, Any] = {"pairs": hex_ids(pair_ids)}
        if alone is not None:
            measured = alone[index]
            row |= {"loss": readable(measured.loss), "grad_norm": readable(measured.grad_norm)}
            row["finite"] = measured.is_finite
        rows.append(row)
    dump = {
        "step": step,
        "loss": readable(values["loss"]),
        "grad_norm": readable(values["grad_norm"]),
        "data": str(Path(data).absolute()),
        "rows": rows,
    }
    with explain_write_errors(path):
        publish_text(path, json.dumps(dump, indent=2) + "\n")


def describe_failure(path: Path, *, step: int, values: Mapping[str, float]) -> str:
    """Returns the message that ends the run, from the dump that was written."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    at_fault = [row for row in rows if not row.get("finite", True)]
    whose = "pairs of the rows that are not finite alone" if at_fault else "pairs of this step"
    ids = " ".join(pair for row in at_fault or rows for pair in row["pairs"])
    return (
        f"loss {values['loss']}, gradient norm {values['grad_norm']} at step {step}; {whose}: {ids}. "
        f"oddsmill pipeline explain --dump={path} shows them. A lower --learning_rate or --max_grad_norm helps where "
        "the data are sound; --max_skipped_steps leaves such steps out"
    )


def readable(value: float) -> float | str:
    """Returns a number that JSON has, or the text of one that it has not."""
    return value if math.isfinite(value) else str(value)


def measure_rows_alone(
    objective: Objective, batch: Batch, params: Any, frozen: Any, *, rows_at_once: int
) -> list[RowAlone]:
    """Returns loss and gradient norm of each row as if it were the whole batch. For one process.

    Args:
      params, frozen: the weights at which the step was taken.
      rows_at_once: the fewest rows that are sure to fit on the mesh; all but one are empty.
    """

    @jax.jit
    def measure(params: Any, frozen: Any, rows: Any) -> tuple[jax.Array, jax.Array]:
        totals = objective.totals(rows)
        (loss, _), gradients = jax.value_and_grad(objective.loss, has_aux=True)(params, rows, totals, frozen)
        return loss, optax.global_norm(gradients)

    filler = empty_row(batch["branch"].shape[1], objective.max_pairs)
    found = []
    for index in range(len(batch["pair_ids"])):
        rows = {name: np.stack([batch[name][index]] + [filler[name]] * (rows_at_once - 1)) for name in DEVICE_ARRAYS}
        loss, grad_norm = measure(params, frozen, put_on_mesh(rows, objective.mesh))
        found.append(RowAlone(float(loss), float(grad_norm)))
    return found
