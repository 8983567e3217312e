"""Blocks that wait for their shard on disk, where the workers are threads of the runner's process.

Beam's embedded runner keeps a whole shuffle in memory, three times over when it hands it on. So there only the
place of a block travels, and the block lies in a file without a name, which ends with the process however that ends.
Other runners have a shuffle of their own, and get the blocks.
"""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from oddsmill.schemas.errors import Refused

_open: dict[int, "Spill"] = {}


class Spilled(NamedTuple):
    """Where a block lies."""

    spill: int
    start: int
    size: int


Travelling = bytes | Spilled


class Spill:
    """A file of blocks that all threads of the process write and read."""

    def __init__(self, descriptor: int):
        self._descriptor, self._end, self._lock = descriptor, 0, threading.Lock()

    def put(self, block: bytes) -> tuple[int, int]:
        """Keeps a block; returns where it starts, and its size.

        Raises:
          Refused: the disk has no room.
        """
        with self._lock:
            start, self._end = self._end, self._end + len(block)
        written = 0
        try:
            while written < len(block):
                written += os.pwrite(self._descriptor, memoryview(block)[written:], start + written)
        except OSError as error:
            raise no_room(error) from error
        return start, len(block)

    def get(self, start: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, start)


@contextmanager
def spilling() -> Iterator[int]:
    """Opens a spill file; yields the key that `put_away` takes."""
    with tempfile.TemporaryFile(prefix="oddsmill-") as file:
        key = file.fileno()
        _open[key] = Spill(key)
        try:
            yield key
        finally:
            del _open[key]


def put_away(block: bytes, key: int | None) -> Travelling:
    """What travels in place of a block: itself, where no spill file is open.

    Raises:
      Refused: the disk has no room.
    """
    return block if key is None else Spilled(key, *_open[key].put(block))


def fetch(block: Travelling) -> bytes:
    """The block that `put_away` was given."""
    return block if isinstance(block, bytes) else _open[block[0]].get(*block[1:])


def no_room(error: OSError) -> Refused:
    """The refusal of a temporary file that cannot be written."""
    folder = tempfile.gettempdir()
    return Refused(f"{folder}: cannot be written ({error.strerror}); set TMPDIR to a folder with space")
