"""The processes that a command has started, and those that they have started."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path


def kill_descendants() -> None:
    """Kills all processes below this one, which would outlive it. On Linux alone, which says what they are."""
    for process in reversed(list(_descendants(os.getpid()))):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _descendants(process: int) -> Iterator[int]:
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found = children.read_text(encoding="ascii").split()
        except OSError:  # the thread has ended
            continue
        for child in map(int, found):
            yield child
            yield from _descendants(child)
