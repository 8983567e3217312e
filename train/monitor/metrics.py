"""Metrics of a run: written to metrics.jsonl always, to TensorBoard and W&B on request, and shown on the console."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from tensorboardX import SummaryWriter

from oddsmill.schemas.files import publish_text
from oddsmill.train.checkpoint.run_files import RunFiles
from oddsmill.train.monitor.progress import RunProgress
from oddsmill.train.monitor.wandb_sink import WandbSink


def _drop_lines_after(path: Path, step: int, *, evaluation_due: bool) -> None:
    """Removes the lines that a killed run wrote after its last checkpoint: those steps are taken again.

    Args:
      evaluation_due: the evaluation of that step is taken again too.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            values = json.loads(line)
            again = evaluation_due and values["step"] == step and "eval/loss" in values
            if values["step"] <= step and not again:
                kept.append(line + "\n")
        except ValueError:
            continue  # the last line, cut off by the kill
    publish_text(path, "".join(kept))


def last_evaluation(metrics: Path, *, step: int | None = None) -> dict[str, float]:
    """Returns the newest evaluation in a metrics.jsonl, or that of a step; empty where there is none.

    Keys are `eval/…`.
    """
    lines = map(json.loads, metrics.read_text(encoding="utf-8").splitlines())
    evaluations = [line for line in lines if "eval/loss" in line and step in (None, line["step"])]
    return {name: value for name, value in evaluations[-1].items() if name != "step"} if evaluations else {}


def metrics_at(metrics: Path, step: int) -> dict[str, Any]:
    """Returns the newest value of every metric up to a step, but for speeds."""
    newest: dict[str, Any] = {}
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            break  # the last line, cut off by a kill or a full disk
        if values["step"] <= step:
            newest |= values
    return {name: newest[name] for name in sorted(newest) if name not in ("step", "mfu") and "per_second" not in name}


class MetricsWriter:
    """Writes one JSON object a logged step to metrics.jsonl, full precision, key `step`. The first process writes.

    Args:
      files: of a run's folder, which exists.
      report_to: `tensorboard`, `wandb`, both or none.
      settings: of the run, for W&B's page.
      headline: the metrics that the console shows beside loss and accuracy.
      first_step: steps already taken; later lines of an earlier start are dropped.
      evaluation_due: the evaluation after them is not done, or is done again.
      num_steps: length of the run, for the progress bar.
    """

    def __init__(
        self,
        files: RunFiles,
        *,
        report_to: Sequence[str],
        settings: Mapping[str, Any],
        headline: Iterable[str],
        first_step: int,
        num_steps: int,
        evaluation_due: bool = False,
    ):
        self._progress = RunProgress(headline=headline, first_step=first_step, num_steps=num_steps)
        self._file, self._tensorboard, self._wandb = None, None, None
        if jax.process_index() == 0:
            if "wandb" in report_to:  # first: it may be refused, and then nothing is open
                self._wandb = WandbSink(files.folder, files.wandb, settings)
            _drop_lines_after(files.metrics, first_step, evaluation_due=evaluation_due)
            self._file = files.metrics.open("a", encoding="utf-8")
            if "tensorboard" in report_to:
                self._tensorboard = SummaryWriter(str(files.tensorboard), purge_step=first_step + 1)

    def __enter__(self) -> "MetricsWriter":
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, traceback)
        for sink in (self._file, self._tensorboard, self._wandb):
            if sink:
                sink.close()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes the metrics of a step, counted from 1: numbers, and texts for metrics.jsonl alone."""
        if self._file:
            # JSON has no NaN.
            finite = {name: value for name, value in values.items() if isinstance(value, str) or math.isfinite(value)}
            self._file.write(json.dumps({"step": step, **finite}) + "\n")
            self._file.flush()
        if self._tensorboard:
            for name, value in values.items():
                if isinstance(value, int | float) and math.isfinite(value):
                    self._tensorboard.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.write(step, values)
        self._progress.show(step, values)

    def write_samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Shows answers of a step where metrics are shown; samples.jsonl is not written here.

        Args:
          samples: of one step, keys `prompt`, `answer` and further texts.
        """
        if not samples:
            return
        if self._tensorboard:
            for number, sample in enumerate(samples):
                lines = [f"**{name}**\n\n{value}" for name, value in sample.items() if name != "step"]
                self._tensorboard.add_text(f"samples/{number}", "\n\n".join(lines), step)
        if self._wandb:
            self._wandb.write_samples(step, samples)
