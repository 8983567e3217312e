"""The locks of a run's folder and of an export: the first process holds them for all of a run.

Where it cannot get one it refuses, and the others are told as they are of any refusal.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.locks.lock import Lock, lock_beside, lock_inside, locked


class RunLock(NamedTuple):
    """The lock of a run's folder; None in all processes but the first."""

    lock: Lock | None = None

    def check(self) -> None:
        """Comes before a checkpoint and an export.

        Raises:
          RunFailed: another run has taken the folder over.
        """
        if self.lock is not None:
            self.lock.check()


@contextmanager
def locked_run_folder(run_dir: str) -> Iterator[RunLock]:
    """Makes the folder of a run and holds its lock while the body runs.

    Raises:
      Refused: the folder cannot be made, or another run is writing there.
    """
    what = f"--run_dir={run_dir}"
    _make_folder(Path(run_dir), what)
    if jax.process_index() > 0:
        yield RunLock()
        return
    with locked(lock_inside(run_dir), what=what, command="oddsmill train run") as lock:
        yield RunLock(lock)


@contextmanager
def locked_export(folder: str | Path, *, what: str, command: str) -> Iterator[None]:
    """Holds the lock of a folder that an export is about to put there, while the body runs.

    Raises:
      Refused: another export is under way to it, or nothing can be written there.
    """
    if jax.process_index() > 0:
        yield
        return
    _make_folder(Path(folder).absolute().parent, what)
    with locked(lock_beside(folder), what=what, command=command):
        yield


def _make_folder(folder: Path, what: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"{what}: no folder can be made there ({error.strerror})") from error
