"""Metrics of a run: written to metrics.jsonl always, to TensorBoard and W&B on request, and shown on the console."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from oddsmill.schemas.files import publish_file
from oddsmill.train.checkpoint.run_files import RunFiles
from oddsmill.train.monitor.progress import RunProgress
from oddsmill.train.monitor.sinks import explain_write_errors, write_whole
from oddsmill.train.monitor.tensorboard_sink import TensorboardSink
from oddsmill.train.monitor.wandb_sink import WandbSink
from oddsmill.train.monitor.written_lines import read_metrics


def _drop_lines_after(path: Path, step: int, *, evaluation_due: bool) -> None:
    """Removes the lines that a killed run wrote after its last checkpoint: those steps are taken again.

    Args:
      evaluation_due: the evaluation of that step is taken again too.
    """
    if not path.exists():
        return
    with publish_file(path) as file:
        for line in read_metrics(path):
            again = evaluation_due and line["step"] == step and "eval/loss" in line
            if line["step"] <= step and not again:
                file.write(json.dumps(line) + "\n")


def last_evaluation(metrics: Path, *, step: int | None = None) -> dict[str, float]:
    """Returns the newest evaluation in a metrics.jsonl, or that of a step; empty where there is none.

    Keys are `eval/…`.
    """
    newest: dict[str, Any] = {}
    for line in read_metrics(metrics):
        if "eval/loss" in line and step in (None, line["step"]):
            newest = line
    return {name: value for name, value in newest.items() if name.startswith("eval/") and not isinstance(value, str)}


def metrics_at(metrics: Path, step: int) -> dict[str, Any]:
    """Returns the newest value of every metric up to a step, but for speeds."""
    newest: dict[str, Any] = {}
    for line in read_metrics(metrics):
        if line["step"] <= step:
            newest |= line
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
        self._metrics, self._file, self._tensorboard, self._wandb = files.metrics, None, None, None
        if jax.process_index() == 0:
            if "wandb" in report_to:  # first: it may be refused, and then nothing is open
                self._wandb = WandbSink(files.folder, files.wandb, settings)
            with explain_write_errors(files.metrics):
                _drop_lines_after(files.metrics, first_step, evaluation_due=evaluation_due)
                self._file = files.metrics.open("ab", buffering=0)  # a line that failed is not tried again at the end
            if "tensorboard" in report_to:
                self._tensorboard = TensorboardSink(files.tensorboard, first_step=first_step)

    def __enter__(self) -> "MetricsWriter":
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with ExitStack() as stack:  # each is closed, whatever the others meet
            for sink in (self._wandb, self._tensorboard, self._file):
                if sink:
                    stack.callback(sink.close)
            self._progress.__exit__(kind, error, traceback)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes the metrics of a step, counted from 1: numbers, and texts for metrics.jsonl alone.

        Raises:
          RunFailed: a place that they go to cannot be written.
        """
        if self._file:
            # JSON has no NaN.
            finite = {name: value for name, value in values.items() if isinstance(value, str) or math.isfinite(value)}
            with explain_write_errors(self._metrics):
                write_whole(self._file, (json.dumps({"step": step, **finite}) + "\n").encode())
        if self._tensorboard:
            self._tensorboard.write(step, values)
        if self._wandb:
            self._wandb.write(step, values)
        self._progress.show(step, values)

    def write_samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Shows answers of a step where metrics are shown; samples.jsonl is not written here.

        Args:
          samples: of one step, keys `prompt`, `answer` and further texts.

        Raises:
          RunFailed: a place that they go to cannot be written.
        """
        for sink in (self._tensorboard, self._wandb):
            if sink and samples:
                sink.write_samples(step, samples)
