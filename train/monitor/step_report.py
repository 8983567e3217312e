"""What a run says of its steps: checked, counted, written; a step late, so that the device never waits for the host."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from oddsmill.schemas.errors import RunFailed
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.data_order import WORDS, DataOrder
from oddsmill.train.model.hf_config import num_parameters
from oddsmill.train.monitor.alarms import Alarms
from oddsmill.train.monitor.metrics import Metrics
from oddsmill.train.monitor.mfu import step_flops, utilisation
from oddsmill.train.monitor.nonfinite import hex_ids
from oddsmill.train.parallel.stop_requests import Wishes
from oddsmill.train.setup import Run


def due(done: int, every: int | None) -> bool:
    return every is not None and done % every == 0


class StepReport:
    """Holds the metrics of the newest step until the next is under way, checks them, and writes them.

    Args:
      fail: makes the error of a step that is not finite, from the step, its metrics and its batch.
    """

    def __init__(
        self,
        config: TrainConfig,
        run: Run,
        sink: Metrics,
        order: DataOrder,
        alarms: Alarms,
        wishes: Wishes,
        fail: Callable[[int, dict[str, float], dict[str, np.ndarray]], RunFailed],
    ):
        self._config, self._run, self._sink = config, run, sink
        self._order, self._alarms, self._wishes, self._fail = order, alarms, wishes, fail
        self._pending: tuple[int, Mapping[str, jax.Array], dict[str, np.ndarray]] | None = None
        self._schedule = run.learning_rate
        self._clock = time.monotonic()
        self._tokens = self._pairs = self._slots = self._flops = 0.0
        whole = num_parameters(run.decoder_config)
        self._trained_share = sum(leaf.size for leaf in jax.tree.leaves(run.abstract_state["params"])) / whole

    def add(self, step: int, values: Mapping[str, jax.Array], batch: dict[str, np.ndarray]) -> None:
        self.flush()
        self._pending = step, values, batch

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside comes after the newest step, and does not count in the rates of the next."""
        self.flush()
        started = time.monotonic()
        yield
        self._clock += time.monotonic() - started

    def flush(self) -> None:
        if self._pending is None:
            return
        step, device_values, batch = self._pending
        self._pending = None
        on_host = jax.device_get(dict(device_values))
        self._order.add(on_host.pop(WORDS))
        values: dict[str, Any] = {name: float(value) for name, value in on_host.items()}
        self._wishes.hear(values)
        finite = math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])
        if not finite:
            skipped = int(values["skipped_steps"])
            if skipped > self._config.max_skipped_steps:
                raise self._fail(step, values, batch)
            self._sink.say(
                f"warning: step {step}: loss {values['loss']}, gradient norm {values['grad_norm']}: left out, "
                f"{skipped} of at most {self._config.max_skipped_steps}; "
                f"its pairs: {' '.join(hex_ids(batch['pair_ids']))}"
            )
        else:
            for line in self._alarms.add_step(step, values):
                self._sink.say(f"warning: {line}")
        self._tokens += values.pop("num_tokens")
        self._pairs += values.pop("num_pairs")
        self._slots += self._config.rows_per_step * self._run.manifest.row_length
        flops = step_flops(
            self._run.decoder_config,
            batch["position"],
            batch["branch"],
            nll_scope=self._run.objective.preference.nll_scope,
            trained_share=self._trained_share,
        )
        self._flops += flops * self._config.rows_per_step / len(batch["position"])  # the rows of this process are some
        if step == self._run.num_steps or due(step, self._config.logging_steps):
            seconds = time.monotonic() - self._clock
            values |= {
                # Steps that were left out before this one do not count in the schedule.
                "learning_rate": self._schedule(step - 1 - (values["skipped_steps"] - (not finite))),
                "epoch": step * self._config.rows_per_step / self._run.rows_per_epoch,
                "tokens_per_second": self._tokens / seconds,
                "pairs_per_second": self._pairs / seconds,
                "padding_share": 1 - self._tokens / self._slots,
                "alarms": self._alarms.count,
                "data_order": self._order.digest,
            }
            mfu = utilisation(self._flops, seconds)
            values |= {} if mfu is None else {"mfu": mfu}
            self._sink.write(step, values)
            self._clock = time.monotonic()
            self._tokens = self._pairs = self._slots = self._flops = 0.0
