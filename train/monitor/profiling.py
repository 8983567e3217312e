"""A profiler trace of a few steps, on request."""

from pathlib import Path

import jax

TRACE_FOLDER = "profile"


class StepProfile:
    """Traces the steps from the first to the last of `steps`, counted from 1, into `run_dir/profile`.

    Read it with TensorBoard's profile plugin, xprof, or Perfetto.

    Args:
      steps: first and last; none where nothing is traced.
    """

    def __init__(self, run_dir: str, steps: list[int] | None):
        self._folder = Path(run_dir) / TRACE_FOLDER
        self._first, self._last = steps or (0, 0)
        self._running = False

    def before(self, step: int) -> None:
        """Called before a step is taken."""
        if self._first and self._first <= step <= self._last and not self._running:
            jax.profiler.start_trace(self._folder)
            self._running = True

    def after(self, step: int, outputs: object) -> None:
        """Called with what a step computes, for which it waits after the last one."""
        if self._running and step >= self._last:
            jax.block_until_ready(outputs)
            self.close()

    def close(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            if jax.process_index() == 0:
                print(f"profile    {self._folder}")

    def __enter__(self) -> "StepProfile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()  # a trace that goes on would keep every later one of this process from starting
