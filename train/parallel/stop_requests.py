"""What a process wishes of the run between two steps: a checkpoint, or an end; all processes follow at one step."""

import time

import jax
import numpy as np

from oddsmill.train.parallel.signals import StopSignals

WISH = "wish"
SAVE = 1  # a greater wish is a signal's number: save and stop


class Clock:
    """Ticks whenever so many minutes have passed since it last did, or was restarted; never, where there are none."""

    def __init__(self, minutes: float | None):
        self._minutes = minutes
        self.restart()

    def restart(self) -> None:
        self._started = time.monotonic()

    def ticks(self) -> bool:
        if self._minutes is None or time.monotonic() - self._started < 60 * self._minutes:
            return False
        self.restart()
        return True


class Wishes:
    """Of several processes each puts its wish into the batch, and all read the greatest from the step's metrics,
    one step late as all metrics; a process alone knows its own at once.
    """

    def __init__(self, signals: StopSignals, clock: Clock):
        self._signals, self._clock = signals, clock
        self._agreed = 0

    def arrays(self, num_rows: int) -> dict[str, np.ndarray]:
        """What goes into the batch of this process, of `num_rows` rows: [num_rows] int32; nothing where it is alone."""
        return {WISH: np.full(num_rows, self._own(), np.int32)} if jax.process_count() > 1 else {}

    def hear(self, values: dict[str, float]) -> None:
        """Takes the wish out of a step's metrics."""
        self._agreed = max(self._agreed, int(values.pop(WISH, 0)))

    def take(self) -> int:
        """The wish that all processes follow now: 0, `SAVE`, or the number of a signal."""
        if jax.process_count() == 1:
            return self._own()
        agreed, self._agreed = self._agreed, 0
        return agreed

    def saved(self) -> None:
        """A checkpoint was begun: what was wished until now is done. A stop is not."""
        self._clock.restart()
        if self._agreed == SAVE:
            self._agreed = 0

    def _own(self) -> int:
        return self._signals.received or (SAVE if self._clock.ticks() else 0)
