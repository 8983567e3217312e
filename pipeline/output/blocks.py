"""Blocks: compressed items for the shuffle, opened again as an index in memory and files of bytes.

The shuffle is the one place where all of a dataset is at a time, so blocks are compressed. The worker that
sorts what it was given holds the index alone: the bytes of the items lie in temporary files, of which the system keeps
in memory what it has room for.
"""

import mmap
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from oddsmill.pipeline.output.spill import refuse_temporary

Compression = Literal["zstd", "lz4"]
# By zstd of level 1, ids take 40% of their bytes and text a third. By lz4, ids take 55%, in half of the time, and a
# third of the time when they are opened: better for a file of this machine.
_OPTIONS: dict[Compression, pa.ipc.IpcWriteOptions] = {
    "zstd": pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=1)),
    "lz4": pa.ipc.IpcWriteOptions(compression=pa.Codec("lz4")),
}
# Two threads open a block no sooner than one, and a process may have a core for itself.
_ONE_THREAD = pa.ipc.IpcReadOptions(use_threads=False)


def encode_block(items: pa.Table, compression: Compression = "zstd") -> bytes:
    """Encodes items as one block, which says itself how it is compressed.

    Args:
      items: a line each; columns of integers, and of bytes (large_binary).
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, items.schema, options=_OPTIONS[compression]) as writer:
        writer.write_table(items)
    return sink.getvalue().to_pybytes()


class Items:
    """The items of opened blocks: their integers in memory, their bytes in files that are mapped.

    Attributes:
      columns: [n] each, the columns of integers by name.
    """

    def __init__(self, columns: dict[str, np.ndarray], stored: dict[str, pa.LargeBinaryArray], places: np.ndarray):
        """Takes over what has been read of the blocks.

        Args:
          stored: the columns of bytes, as the blocks have them.
          places: [n], where the bytes of each item stand in these.
        """
        self.columns, self._stored, self._places = columns, stored, places

    def __len__(self) -> int:
        return len(self._places)

    def take(self, indices: np.ndarray) -> "Items":
        """Returns some of the items, in the order of `indices`."""
        columns = {name: values[indices] for name, values in self.columns.items()}
        return Items(columns, self._stored, self._places[indices])

    def payload(self, name: str, index: int) -> bytes:
        """Reads the bytes of one item in a column."""
        payload: bytes = self._stored[name][int(self._places[index])].as_py()
        return payload

    def join(self, name: str, indices: np.ndarray) -> memoryview:
        """Reads the bytes of some items in a column, one after another."""
        taken = self._stored[name].take(pa.array(self._places[indices]))
        bounds = _bounds(taken)
        return memoryview(taken.buffers()[2] or b"")[bounds[0] : bounds[-1]]

    def sizes(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Returns how many bytes each of some items has in a column, [n] int64."""
        bounds, places = _bounds(self._stored[name]), self._places[indices]
        return bounds[places + 1] - bounds[places]


def _bounds(column: pa.LargeBinaryArray) -> np.ndarray:
    """Returns where the bytes of each item begin among those of a column, and where the last end, [n + 1] int64."""
    offsets = column.buffers()[1]
    bounds: np.ndarray = np.frombuffer(offsets, np.int64, len(column) + 1) if offsets else np.zeros(1, np.int64)
    return bounds


def _append(file: Any, column: pa.LargeBinaryArray) -> np.ndarray:
    """Writes a column of bytes; returns how many each item has, [n] int64."""
    bounds = _bounds(column)
    rest = memoryview(column.buffers()[2] or b"")[bounds[0] : bounds[-1]]
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise refuse_temporary(error) from error
    return np.diff(bounds)


@contextmanager
def open_blocks(schema: pa.Schema, blocks: Iterable[bytes]) -> Iterator[Items]:
    """Opens many blocks; yields their items, in the order of the blocks.

    Args:
      schema: of the table that `encode_block` was given.

    Raises:
      Refused: the temporary file has no room.
    """
    with ExitStack() as opened:
        files = {
            column.name: opened.enter_context(tempfile.TemporaryFile(prefix="oddsmill-", buffering=0))
            for column in schema
            if pa.types.is_large_binary(column.type)
        }
        parts = _read(schema, blocks, files)
        columns = {
            # not by `to_pandas_dtype`, which imports pandas: that takes 0.2 s
            column.name: np.concatenate([np.zeros(0, str(column.type)), *parts.pop(column.name)])
            for column in schema
            if column.name not in files
        }
        stored = {name: _mapped(file, parts.pop(name)) for name, file in files.items()}
        yield Items(columns, stored, np.arange(len(next(iter(columns.values())))))


def _read(schema: pa.Schema, blocks: Iterable[bytes], files: Mapping[str, Any]) -> dict[str, list[np.ndarray]]:
    """Reads blocks: returns the integers of each column, or how many bytes each item has in those that go to a file."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in schema.names}
    streams = (pa.ipc.open_stream(block, options=_ONE_THREAD) for block in blocks)
    for batch in chain.from_iterable(streams):  # a table in chunks has several
        for name, column in zip(schema.names, batch.columns, strict=True):
            parts[name].append(_append(files[name], column) if name in files else column.to_numpy())
    return parts


def _mapped(file: Any, sizes: Sequence[np.ndarray]) -> pa.LargeBinaryArray:
    """Returns a column of bytes that lie in a file one after another, so many of each item."""
    bounds = np.append(0, np.cumsum(np.concatenate([np.zeros(0, np.int64), *sizes])))
    # One call of Arrow's copies many items, where each would take a call of the system.
    payload = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if bounds[-1] else b""
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(payload)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(bounds) - 1, buffers)
