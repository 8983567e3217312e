"""Damaged checkpoints and saves that fail: what is wrong with them in a line, and what is left of them."""

import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jax

from oddsmill.schemas.console import log
from oddsmill.train.parallel.processes import gather_bytes


def set_aside(folder: Path, problems: Mapping[int, str], whole: int) -> None:
    """Renames damaged checkpoints, so that their steps can be saved again, with a warning. All processes call this.

    Args:
      folder: of the checkpoints.
      problems: the step of each that is damaged, and what is wrong.
      whole: the step that the run goes on from.
    """
    for step, problem in problems.items():
        if jax.process_index() == 0:
            aside = folder / f"{step}.damaged"
            shutil.rmtree(aside, ignore_errors=True)
            (folder / str(step)).rename(aside)
            log.warning(
                f"the checkpoint of step {step} is damaged ({problem}): it lies in {aside} now, "
                f"and the run goes on from that of step {whole}"
            )
    gather_bytes(b"")  # nobody lists the folder before


def first_line(error: BaseException) -> str:
    """Returns the message of the root of an error, short enough for a line."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) <= 200 else text[:200] + " …"


def forget_frames(error: BaseException) -> None:
    """Lets go of what the frames of an error and of its causes hold: tasks of asyncio, arrays on their way out."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__


def join_writers(longest_s: float = 10.0) -> None:
    """Waits for the threads of Orbax that still write where another one has failed: they complain, and hold files."""
    last_moment = time.monotonic() + longest_s
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("orbax."):
            thread.join(max(0.0, last_moment - time.monotonic()))


@contextmanager
def closed_loops_held_back() -> Iterator[None]:
    """Holds back what TensorStore prints for each write that it ends after a save has failed: a whole traceback.

    Orbax closes the event loop of a save with its first error; TensorStore wants to tell that loop of all others.
    """
    before = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        if sys.unraisablehook is hook:
            sys.unraisablehook = before
