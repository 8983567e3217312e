"""A file on disk for blocks of pairs that wait for their shard, where the workers are threads of the runner's process.

Beam's embedded runner keeps a whole shuffle in memory, and holds it three times when it hands it on. So only the
position of a block goes through the shuffle there; the block itself is in a file without a name, which ends with the
process however that ends. Other runners have a shuffle of their own, and get the blocks.
"""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from oddsmill.schemas.errors import Refused


class BlockRef(NamedTuple):
    """The position of a block in a spill file.

    Attributes:
      spill: The key of the file: its descriptor.
      start: The offset of the first byte.
      size: The number of bytes.
    """

    spill: int
    start: int
    size: int


class SpillFile:
    """A file of blocks that all threads of the process write and read."""

    def __init__(self, descriptor: int):
        self._descriptor, self._end, self._lock = descriptor, 0, threading.Lock()

    def write(self, block: bytes) -> int:
        """Appends a block; returns its offset.

        Raises:
          Refused: The disk is full.
        """
        with self._lock:
            start, self._end = self._end, self._end + len(block)
        written = 0
        try:
            while written < len(block):
                written += os.pwrite(self._descriptor, memoryview(block)[written:], start + written)
        except OSError as error:
            raise refuse_temporary(error) from error
        return start


_open: dict[int, SpillFile] = {}


@contextmanager
def open_spill() -> Iterator[int]:
    """Opens a spill file; yields the key that `write_block` takes."""
    with tempfile.TemporaryFile(prefix="oddsmill-") as file:
        key = file.fileno()
        _open[key] = SpillFile(key)
        try:
            yield key
        finally:
            del _open[key]


def write_block(block: bytes, key: int | None) -> bytes | BlockRef:
    """Writes a block to a spill file; returns its position, or the block itself if `key` is None.

    Raises:
      Refused: The disk is full.
    """
    return block if key is None else BlockRef(key, _open[key].write(block), len(block))


def read_block(block: bytes | BlockRef) -> bytes:
    """Returns the block that `write_block` was given, in this process or in one that has inherited the file."""
    if isinstance(block, bytes):
        return block
    spill, start, size = block
    return os.pread(spill, size, start)


def refuse_temporary(error: OSError) -> Refused:
    """Returns the refusal for a temporary file that cannot be written."""
    folder = tempfile.gettempdir()
    return Refused(f"{folder}: cannot be written ({error.strerror}); set TMPDIR to a folder with space")
