"""The console of a run: a bar on a terminal, lines elsewhere."""

import logging
import time
from collections.abc import Iterable, Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from oddsmill.schemas.console import log

# Without a terminal there is no bar; a line appears at most this often.
SECONDS_BETWEEN_LINES = 5.0


def describe(values: Mapping[str, float], headline: Iterable[str]) -> str:
    """Returns the metrics of a training step or of an evaluation in a line.

    Args:
      headline: the metrics that stand beside loss and accuracy.
    """
    prefix = "eval/" if "eval/loss" in values else ""
    parts = [
        f"{prefix}loss {values[prefix + 'loss']:.4f}",
        f"accuracy {values[prefix + 'rewards/accuracies']:.3f}",
        *(f"{name} {values[prefix + name]:+.4f}" for name in headline),
    ]
    if not prefix:
        parts += [f"{values['pairs_per_second']:.1f} pairs/s", f"{values['tokens_per_second']:,.0f} tokens/s"]
        parts += [f"MFU {values['mfu']:.1%}"] if "mfu" in values else []
        parts += [f"{values['skipped_steps']:.0f} skipped"] if values.get("skipped_steps") else []
    return "  ".join(parts)


class RunProgress:
    """Shows how far a run is. Lines go through the logger; while the bar is shown they stand above it.

    Args:
      headline: the metrics that stand beside loss and accuracy.
      first_step: steps already taken.
      console: the terminal of the bar; for tests.
    """

    def __init__(self, *, headline: Iterable[str], first_step: int, num_steps: int, console: Console | None = None):
        self._headline = tuple(headline)
        self._console = console or Console()
        self._has_bar = self._console.is_terminal and log.isEnabledFor(logging.INFO)
        self._last_line = 0.0
        self._num_steps = num_steps
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._has_bar,
        )
        self._task = self._bar.add_task("", total=num_steps, completed=first_step)

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the metrics of a training step or of an evaluation."""
        is_evaluation = "eval/loss" in values
        if not is_evaluation:
            self._bar.update(self._task, completed=step, description=describe(values, self._headline))
        now = time.monotonic()
        due = is_evaluation or step in (1, self._num_steps) or now - self._last_line >= SECONDS_BETWEEN_LINES
        if due and (is_evaluation or not self._has_bar):
            self._last_line = now
            log.info(f"step {step:>{len(str(self._num_steps))}}/{self._num_steps}  {describe(values, self._headline)}")
