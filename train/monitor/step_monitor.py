"""Reports the metrics of training steps, one step late, so that the device never waits for the host."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax

from oddsmill.schemas.console import log
from oddsmill.schemas.errors import RunFailed
from oddsmill.train.data.data_order import DataOrder
from oddsmill.train.data.loader import Batch
from oddsmill.train.monitor.alarms import Alarms
from oddsmill.train.monitor.metrics import MetricsWriter
from oddsmill.train.monitor.nonfinite import hex_ids
from oddsmill.train.monitor.throughput import Throughput


class _Pending(NamedTuple):
    step: int
    metrics: Mapping[str, jax.Array]
    batch: Batch


class StepMonitor:
    """Holds the metrics of the newest step until the next is under way; then checks, counts and writes them.

    It reports and decides nothing. Whoever needs all steps to be checked, such as a save, flushes first.

    Args:
      order: the run's data order, whose digest is written where it is known.
      learning_rate: of a step, counted from 0.
      rows_per_epoch: empty rows that fill up its last step counted.
      nonfinite_error: makes the error that ends the run, from a step that is not finite, its metrics and its batch.
    """

    def __init__(
        self,
        writer: MetricsWriter,
        alarms: Alarms,
        throughput: Throughput,
        order: DataOrder,
        *,
        learning_rate: Callable[[Any], Any],
        rows_per_step: int,
        rows_per_epoch: int,
        logging_steps: int,
        num_steps: int,
        max_skipped_steps: int,
        nonfinite_error: Callable[[int, Mapping[str, float], Batch], RunFailed],
    ):
        self._writer, self._alarms, self._throughput, self._order = writer, alarms, throughput, order
        self._learning_rate, self._rows_per_step, self._rows_per_epoch = learning_rate, rows_per_step, rows_per_epoch
        self._logging_steps, self._num_steps = logging_steps, num_steps
        self._max_skipped_steps, self._nonfinite_error = max_skipped_steps, nonfinite_error
        self._pending: _Pending | None = None

    def add(self, step: int, metrics: Mapping[str, jax.Array], batch: Batch) -> None:
        """Takes in a step that is under way, and reports the one before.

        Raises:
          RunFailed: the step before is not finite, and no more steps may be skipped.
        """
        self.flush()
        self._pending = _Pending(step, metrics, batch)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Reports the newest step, for which it waits; the time inside does not count in the rates of the next.

        Raises:
          RunFailed: as `add`.
        """
        self.flush()
        with self._throughput.paused():
            yield

    def flush(self) -> None:
        """Reports the newest step, for which it waits.

        Raises:
          RunFailed: as `add`.
        """
        if self._pending is None:
            return
        step, metrics, batch = self._pending
        self._pending = None
        values: dict[str, Any] = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        is_finite = math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])
        if is_finite:
            for line in self._alarms.add_step(step, values):
                log.warning(line)
        elif values["skipped_steps"] > self._max_skipped_steps:
            raise self._nonfinite_error(step, values, batch)
        else:
            log.warning(
                f"step {step}: loss {values['loss']}, gradient norm {values['grad_norm']}: left out, "
                f"{values['skipped_steps']:.0f} of at most {self._max_skipped_steps}; "
                f"its pairs: {' '.join(hex_ids(batch['pair_ids']))}"
            )
        self._throughput.add_step(
            num_tokens=values.pop("num_tokens"),
            num_pairs=values.pop("num_pairs"),
            position_BL=batch["position"],
            branch_BL=batch["branch"],
        )
        if step == self._num_steps or step % self._logging_steps == 0:
            self._writer.write(step, values | self._further_values(step, values["skipped_steps"] - (not is_finite)))

    def _further_values(self, step: int, skipped_before: float) -> dict[str, Any]:
        """Returns the values of a step that its metrics do not hold, in the order of metrics.jsonl."""
        rates = self._throughput.rates()
        mfu = {name: rates.pop(name) for name in ["mfu"] if name in rates}
        digest = self._order.after(step)  # of several processes it is known when they were gathered: at a save
        return {
            # Steps that were left out before this one do not count in the schedule.
            "learning_rate": self._learning_rate(step - 1 - skipped_before),
            "epoch": step * self._rows_per_step / self._rows_per_epoch,
            **rates,
            "alarms": self._alarms.count,
            **({} if digest is None else {"data_order": digest}),
            **mfu,
        }
