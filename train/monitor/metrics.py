"""Where metrics go: metrics.jsonl always, TensorBoard and W&B on request, and the console."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboardX import SummaryWriter

from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.monitor.progress import RunProgress
from oddsmill.train.monitor.wandb_sink import WandbSink

METRICS_NAME = "metrics.jsonl"


def _drop_lines_after(path: Path, step: int, *, evaluation_due: bool) -> None:
    """Removes what a killed run wrote after its last checkpoint: those steps are taken again.

    Args:
      evaluation_due: so is the evaluation of that step itself.
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
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text("".join(kept), encoding="utf-8")
    os.replace(unfinished, path)


def last_evaluation(run_dir: str | Path, *, step: int | None = None) -> dict[str, float]:
    """The newest evaluation in a run's metrics.jsonl, or that of a step, keys `eval/…`; empty where there is none."""
    lines = map(json.loads, (Path(run_dir) / METRICS_NAME).read_text(encoding="utf-8").splitlines())
    evaluations = [line for line in lines if "eval/loss" in line and step in (None, line["step"])]
    return {name: value for name, value in evaluations[-1].items() if name != "step"} if evaluations else {}


class Metrics:
    """Writes one JSON object a logged step to `run_dir/metrics.jsonl`, full precision, key `step`.

    Args:
      run_dir: exists.
      first_step: steps already taken; later lines of an earlier start are dropped.
      evaluation_due: the evaluation after them is not done, or is done again.
      num_steps: length of the run, for the progress bar.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        first_step: int,
        num_steps: int,
        is_writer: bool,
        evaluation_due: bool = False,
    ):
        self._progress = RunProgress(first_step=first_step, num_steps=num_steps, is_writer=is_writer)
        self._file, self._tensorboard, self._wandb = None, None, None
        if is_writer:
            if "wandb" in config.report_to:  # first: it may be refused, and then nothing is open
                self._wandb = WandbSink(config.run_dir, dataclasses.asdict(config))
            path = Path(config.run_dir) / METRICS_NAME
            _drop_lines_after(path, first_step, evaluation_due=evaluation_due)
            self._file = path.open("a", encoding="utf-8")
            if "tensorboard" in config.report_to:
                self._tensorboard = SummaryWriter(
                    os.path.join(config.run_dir, "tensorboard"), purge_step=first_step + 1
                )

    def __enter__(self) -> "Metrics":
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

    def say(self, line: str) -> None:
        """A line of its own on the console."""
        self._progress.say(line)
