"""A profiler trace of a few steps, on request."""

from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType

import jax

from oddsmill.schemas.console import log
from oddsmill.schemas.errors import RunFailed
from oddsmill.train.monitor.sinks import explain_write_errors


class StepProfile:
    """Traces the steps from the first to the last of `steps`, counted from 1, into a folder.

    TensorBoard's profile plugin, xprof and Perfetto read it.

    Args:
      steps: first and last; None where nothing is traced.
    """

    def __init__(self, folder: Path, steps: list[int] | None):
        self._folder = folder
        self._first, self._last = steps or (0, 0)
        self._running = False

    def before(self, step: int) -> None:
        """Begins the trace before the first of the steps.

        Raises:
          RunFailed: its folder cannot be written.
        """
        if self._first and self._first <= step <= self._last and not self._running:
            with explain_write_errors(self._folder):
                jax.profiler.start_trace(self._folder)
            self._running = True

    def after(self, step: int, outputs: object) -> None:
        """Ends the trace after the last of the steps, when its outputs are there. Errors: as `close`."""
        if self._running and step >= self._last:
            jax.block_until_ready(outputs)
            self.close()

    def close(self) -> None:
        """Writes the trace, if one is under way.

        Raises:
          RunFailed: it cannot be written.
        """
        if self._running:
            self._running = False
            with explain_write_errors(self._folder):
                jax.profiler.stop_trace()
            log.info(f"profile    {self._folder}")

    def __enter__(self) -> "StepProfile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A trace that goes on would keep every later one of this process from starting.
        with suppress(RunFailed) if error else nullcontext():
            self.close()
