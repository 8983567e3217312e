"""Blocks: compressed items for the shuffle, opened again as an index in memory and a file of bytes.

The shuffle is the one place where all of a dataset is at a time, so blocks are compressed. The worker that
sorts what it was given holds the index alone: the bytes of the items lie in a temporary file.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from oddsmill.pipeline.output.spill import refuse_temporary

# At level 1, ids take half of their bytes and text a third, at 500 MB/s.
_OPTIONS = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=1))


def encode_block(items: pa.Table) -> bytes:
    """Encodes items as one block.

    Args:
      items: a line each; columns of integers, and of bytes (large_binary).
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, items.schema, options=_OPTIONS) as writer:
        writer.write_table(items)
    return sink.getvalue().to_pybytes()


class Items:
    """The items of opened blocks: their integers in memory, their bytes in a file.

    Attributes:
      columns: [n] each, the columns of integers by name.
    """

    def __init__(self, columns: dict[str, np.ndarray], places: dict[str, np.ndarray], descriptor: int):
        """Takes over what has been read of the blocks.

        Args:
          places: of the columns of bytes: where those of each item begin in the file, and how many they are, [n, 2].
        """
        self.columns, self._places, self._descriptor = columns, places, descriptor

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def take(self, indices: np.ndarray) -> "Items":
        """Returns some of the items, in the order of `indices`."""
        columns, places = (
            {name: values[indices] for name, values in each.items()} for each in (self.columns, self._places)
        )
        return Items(columns, places, self._descriptor)

    def payload(self, name: str, index: int) -> bytes:
        """Reads the bytes of one item in a column."""
        start, size = self._places[name][index].tolist()
        return os.pread(self._descriptor, size, start)

    def join(self, name: str, indices: np.ndarray) -> bytes:
        """Reads the bytes of some items in a column, one after another."""
        read, descriptor = os.pread, self._descriptor
        return b"".join([read(descriptor, size, start) for start, size in self._places[name][indices].tolist()])

    def sizes(self, name: str) -> np.ndarray:
        """Returns how many bytes each item has in a column, [n] int64."""
        return self._places[name][:, 1]


def _append(file: Any, column: pa.LargeBinaryArray) -> np.ndarray:
    """Writes a column of bytes; returns where those of each item begin in the file, and how many they are, [n, 2]."""
    _, offsets, payload = column.buffers()
    bounds = np.frombuffer(offsets, np.int64, len(column) + 1)
    places = np.stack([file.tell() + bounds[:-1], np.diff(bounds)], axis=1)
    try:
        file.write(memoryview(payload) if payload else b"")
        file.flush()
    except OSError as error:
        raise refuse_temporary(error) from error
    return places


@contextmanager
def open_blocks(schema: pa.Schema, blocks: Iterable[bytes]) -> Iterator[Items]:
    """Opens many blocks; yields their items, in the order of the blocks.

    Args:
      schema: of the table that `encode_block` was given.

    Raises:
      Refused: the temporary file has no room.
    """
    columns: dict[str, list[np.ndarray]] = {}
    for column in schema:
        is_bytes = pa.types.is_large_binary(column.type)
        columns[column.name] = [np.zeros((0, 2), np.int64) if is_bytes else np.zeros(0, column.type.to_pandas_dtype())]
    with tempfile.TemporaryFile(prefix="oddsmill-") as file:
        for batch in chain.from_iterable(map(pa.ipc.open_stream, blocks)):  # a table in chunks has several
            for name, column in zip(schema.names, batch.columns, strict=True):
                columns[name].append(
                    _append(file, column) if pa.types.is_large_binary(column.type) else column.to_numpy()
                )
        joined = {name: np.concatenate(parts) for name, parts in columns.items()}
        places = {column.name: joined.pop(column.name) for column in schema if pa.types.is_large_binary(column.type)}
        yield Items(joined, places, file.fileno())
