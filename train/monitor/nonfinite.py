"""What is kept of a step whose loss or gradient is not finite: its pairs, and which rows of it are to blame."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.loader import DEVICE_ARRAYS, Batch, empty_row
from oddsmill.train.parallel.sharding import put_on_mesh
from oddsmill.train.setup import Run


def hex_ids(pair_ids: np.ndarray) -> list[str]:
    """Pair ids as `inspect` and `explain` write them; the padding's 0 is left out."""
    return [f"{pair_id:016x}" for pair_id in pair_ids.ravel().tolist() if pair_id]


def dump_path(run_dir: str | Path, step: int) -> Path:
    suffix = f"-process-{jax.process_index()}" if jax.process_count() > 1 else ""
    return Path(run_dir) / f"nonfinite-step-{step}{suffix}.json"


def write_dump(
    config: TrainConfig, run: Run, *, step: int, values: Mapping[str, float], batch: Batch, params: Any, frozen: Any
) -> Path:
    """Writes a JSON file of the step for `oddsmill pipeline explain --dump=FILE`; returns its path.

    On one process each row is measured again alone, at the weights of that step.

    Args:
      values: the step's metrics.
      batch: the rows that this process holds of the step.
      params: the trained weights at which the step was taken.
    """
    alone = _rows_alone(config, run, batch, params, frozen) if jax.process_count() == 1 else None
    rows = []
    for index, pair_ids in enumerate(batch["pair_ids"]):
        row: dict[str, Any] = {"pairs": hex_ids(pair_ids)}
        if alone is not None:
            loss, grad_norm = alone[index]
            row |= {"loss": readable(loss), "grad_norm": readable(grad_norm)}
            row["finite"] = math.isfinite(loss) and math.isfinite(grad_norm)
        rows.append(row)
    dump = {
        "step": step,
        "loss": readable(values["loss"]),
        "grad_norm": readable(values["grad_norm"]),
        "data": str(Path(config.data).absolute()),
        "rows": rows,
    }
    path = dump_path(config.run_dir, step)
    path.write_text(json.dumps(dump, indent=2) + "\n", encoding="utf-8")
    return path


def describe_failure(path: Path, *, step: int, values: Mapping[str, float]) -> str:
    """The message that ends the run, from the dump that was written."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    blamed = [row for row in rows if not row.get("finite", True)]
    whose = "pairs of the rows that are not finite alone" if blamed else "pairs of this step"
    ids = " ".join(pair for row in blamed or rows for pair in row["pairs"])
    return (
        f"loss {values['loss']}, gradient norm {values['grad_norm']} at step {step}; {whose}: {ids}. "
        f"oddsmill pipeline explain --dump={path} shows them. A lower --learning_rate or --max_grad_norm helps where "
        "the data are sound; --max_skipped_steps leaves such steps out"
    )


def readable(value: float) -> float | str:
    """JSON has no number for what is not finite."""
    return value if math.isfinite(value) else str(value)


def _rows_alone(config: TrainConfig, run: Run, batch: Batch, params: Any, frozen: Any) -> list[tuple[float, float]]:
    """Loss and gradient norm of each row as if it were the whole batch."""

    @jax.jit
    def measure(params: Any, frozen: Any, rows: Any) -> tuple[jax.Array, jax.Array]:
        totals = run.objective.totals(rows)
        (loss, _), gradients = jax.value_and_grad(run.objective.loss, has_aux=True)(params, rows, totals, frozen)
        return loss, optax.global_norm(gradients)

    filler = empty_row(run.manifest.row_length, run.objective.max_pairs)
    shares = config.total_batch_size  # the fewest rows that are sure to fit on the mesh
    found = []
    for index in range(len(batch["pair_ids"])):
        rows = {name: np.stack([batch[name][index]] + [filler[name]] * (shares - 1)) for name in DEVICE_ARRAYS}
        loss, grad_norm = measure(params, frozen, put_on_mesh(rows, run.mesh))
        found.append((float(loss), float(grad_norm)))
    return found
