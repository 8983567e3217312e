"""Where metrics go: metrics.jsonl always, TensorBoard, and the console."""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from train.config import TrainConfig

METRICS_NAME = "metrics.jsonl"
# Without a terminal there is no bar; a line appears at most this often.
SECONDS_BETWEEN_LINES = 5.0


def _drop_lines_after(path: Path, step: int) -> None:
    """Removes what a killed run wrote after its last checkpoint: those steps are taken again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            continue  # the last line, cut off by the kill
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text("".join(kept), encoding="utf-8")
    os.replace(unfinished, path)


def last_evaluation(run_dir: str | Path) -> dict[str, float]:
    """The newest evaluation in a run's metrics.jsonl, keys `eval/…`; empty where there is none."""
    lines = (Path(run_dir) / METRICS_NAME).read_text(encoding="utf-8").splitlines()
    evaluations = [line for line in map(json.loads, lines) if "eval/loss" in line]
    return {name: value for name, value in evaluations[-1].items() if name != "step"} if evaluations else {}


class Metrics:
    """Writes one JSON object a logged step to `run_dir/metrics.jsonl`, full precision, key `step`.

    Args:
      run_dir: exists.
      first_step: steps already taken; later lines of an earlier start are dropped.
      num_steps: length of the run, for the progress bar.
    """

    def __init__(self, config: TrainConfig, *, first_step: int, num_steps: int, is_writer: bool):
        self._is_writer = is_writer
        self._last_line = 0.0
        self._console = Console(quiet=not is_writer, highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (is_writer and self._console.is_terminal),
        )
        self._task = self._bar.add_task("", total=num_steps, completed=first_step)
        self._num_steps = num_steps
        self._file, self._tensorboard = None, None
        if is_writer:
            path = Path(config.run_dir) / METRICS_NAME
            _drop_lines_after(path, first_step)
            self._file = path.open("a", encoding="utf-8")
            if "tensorboard" in config.report_to:
                self._tensorboard = SummaryWriter(
                    os.path.join(config.run_dir, "tensorboard"), purge_step=first_step + 1
                )

    def __enter__(self) -> "Metrics":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._file:
            self._file.close()
        if self._tensorboard:
            self._tensorboard.close()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes the metrics of a step, counted from 1: numbers, and texts for metrics.jsonl alone."""
        if self._file:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        if self._tensorboard:
            for name, value in values.items():
                if isinstance(value, float) and math.isfinite(value):
                    self._tensorboard.add_scalar(name, value, step)
        self._show(step, values)

    def _show(self, step: int, values: Mapping[str, Any]) -> None:
        prefix = "eval/" if "eval/loss" in values else ""
        line = (
            f"{prefix}loss {values[prefix + 'loss']:.4f}  "
            f"accuracy {values[prefix + 'rewards/accuracies']:.3f}  "
            f"log_odds_chosen {values[prefix + 'log_odds_chosen']:+.4f}"
        )
        if not prefix:
            line += f"  {values['pairs_per_second']:.1f} pairs/s"
            self._bar.update(self._task, completed=step, description=line)
        now = time.monotonic()
        due = prefix or step in (1, self._num_steps) or now - self._last_line >= SECONDS_BETWEEN_LINES
        if due and (prefix or not self._console.is_terminal):
            self._last_line = now
            self._console.print(f"step {step:>{len(str(self._num_steps))}}/{self._num_steps}  {line}")
