"""The processes that a command has started, and those that they have started."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_LOOKS_EVERY_S = 0.5


def kill_descendants() -> None:
    """Kills all processes below this one, which would outlive it. On Linux alone, which says what they are."""
    for process in reversed(list(_descendants(os.getpid()))):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def end_with(parent: int) -> None:
    """Lets this process end at once when its parent does, however that ends, SIGKILL included.

    Args:
      parent: The process that has started this one. It is named because it may have ended before it could be asked for.
    """
    # The kernel kills it even while it stands still in a library. It does so when the parent's thread that started this
    # process ends, so that thread has to wait for it.
    asked = sys.platform == "linux" and ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) == 0
    if os.getppid() != parent:
        os._exit(1)
    if not asked:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOKS_EVERY_S)
    os._exit(1)


def _descendants(process: int) -> Iterator[int]:
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found = children.read_text(encoding="ascii").split()
        except OSError:  # the thread has ended
            continue
        for child in map(int, found):
            yield child
            yield from _descendants(child)
