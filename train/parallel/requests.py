"""Save and stop requests, agreed across processes so that all of them act at the same step."""

import itertools
import signal
import time
from typing import NamedTuple

import jax

from oddsmill.train.parallel.coordination import coordination_client
from oddsmill.train.parallel.signals import StopSignals

# Steps from a request to the step at which all processes act on it.
LEAD_STEPS = 2
_sessions = itertools.count()


class Request(NamedTuple):
    """A request for a checkpoint or, by a signal, for a checkpoint and the end of the run."""

    save: bool = False
    stop: signal.Signals | None = None


class Timer:
    """Is due whenever so many minutes have passed since it last was, or was restarted; never where there are none."""

    def __init__(self, minutes: float | None):
        self._minutes = minutes
        self.restart()

    def restart(self) -> None:
        self._started = time.monotonic()

    def is_due(self) -> bool:
        if self._minutes is None or time.monotonic() - self._started < 60 * self._minutes:
            return False
        self.restart()
        return True


class Requests:
    """Signals of any process, and the first process's timer for checkpoints.

    A process alone acts at once. Several agree through the key-value store of JAX's coordination service, which costs
    the devices nothing. JAX's own agreement (`multihost_utils.reached_preemption_sync_point`) is for SIGTERM alone and
    happens once in a process; this one serves Ctrl-C and timers too.

    The first process with a request writes it under a key that all know, with the step at which all act on it,
    LEAD_STEPS later. That is late enough. Before a process polls after step n it has read the metrics of step n - 1,
    which every process has a part in; so every other has begun step n - 1, and its poll after step n - 2 is over. What
    is written in a poll is seen by all LEAD_STEPS later.
    """

    def __init__(self, signals: StopSignals, save_interval_minutes: float | None):
        self._signals, self._timer = signals, Timer(save_interval_minutes)
        self._saved_step = 0
        # The first step of this start takes a compilation with it. Several processes end together, when they can.
        self._signals.nothing_to_save = jax.process_count() == 1
        self._keys = (
            f"oddsmill/requests/{session}/{number}" for session in [next(_sessions)] for number in itertools.count()
        )
        self._key = next(self._keys)
        self._agreed: tuple[int, Request] | None = None

    def poll(self, step: int) -> Request:
        """Returns what all processes do now. Called once after every step, when the metrics of the one before are read.

        Args:
          step: the steps taken.
        """
        self._signals.nothing_to_save = False
        if jax.process_count() == 1:
            return self._own()
        if self._agreed is None:
            self._agreed = self._written() or self._write(step, self._own())
        if self._agreed is None or step < self._agreed[0]:
            return Request()
        agreed_step, request = self._agreed
        self._agreed, self._key = None, next(self._keys)
        if request.stop is None and self._saved_step >= agreed_step - LEAD_STEPS:
            return Request()  # the checkpoint that was asked for was made meanwhile, for another reason
        return request

    def last_stop(self) -> signal.Signals | None:
        """Returns the signal that came at the last step, whose checkpoint is written; from here on one ends at once.

        None for several processes, which have nothing more to agree on.
        """
        if jax.process_count() > 1:
            return None
        self._signals.nothing_to_save = True
        return self._signals.received

    def saved(self, step: int) -> None:
        """Notes that a checkpoint of a step was begun: the time to the next one starts anew."""
        self._timer.restart()
        self._saved_step = step

    def _own(self) -> Request:
        if self._signals.received:
            return Request(save=True, stop=self._signals.received)
        return Request(save=jax.process_index() == 0 and self._timer.is_due())

    def _write(self, step: int, request: Request) -> tuple[int, Request] | None:
        if not request.save:
            return None
        try:
            value = f"{step + LEAD_STEPS} {int(request.stop or 0)}"
            coordination_client().key_value_set(self._key, value)
        except jax.errors.JaxRuntimeError as error:
            if "ALREADY_EXISTS" not in str(error):
                raise
        return self._written()  # its own, or that of a process that was faster

    def _written(self) -> tuple[int, Request] | None:
        try:
            agreed_step, stop = map(int, coordination_client().key_value_try_get(self._key).split())
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" not in str(error):
                raise
            return None
        return agreed_step, Request(save=True, stop=signal.Signals(stop) if stop else None)
