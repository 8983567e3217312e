"""Temporary folders that are removed in the end: by their command, or where that is killed by the next one."""

import atexit
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from oddsmill.schemas.process.signals import on_end

_PREFIX = "oddsmill-folder-"
# A folder that is just being made has no lock yet.
_YOUNG_S = 60.0


@contextmanager
def temporary_folder() -> Iterator[str]:
    """Yields an empty folder that only this user sees, and removes it; those that killed processes left go first.

    The kernel keeps a lock on the folder for as long as this process, or one that it has forked, lives.

    Raises:
      OSError: none can be made.
    """
    _remove_left()
    folder = tempfile.mkdtemp(prefix=_PREFIX)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # not every network disk has it; there what is left stays
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        with on_end(lambda: shutil.rmtree(folder, ignore_errors=True)):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def lasting_folder() -> str:
    """Returns a temporary folder that lasts as long as the process. Errors: see `temporary_folder`."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(temporary_folder())


def _remove_left() -> None:
    home = tempfile.gettempdir()
    with suppress(OSError):
        for entry in os.scandir(home):
            if entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False):
                _remove_if_left(entry.path)


def _remove_if_left(folder: str) -> None:
    with suppress(OSError):  # another process removes it, or it is another user's
        descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            about = os.fstat(descriptor)
            if about.st_uid == os.getuid() and time.time() - about.st_mtime > _YOUNG_S:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)
