"""Blocks: compressed items for the shuffle, opened again as an index in memory and a file of bytes.

The shuffle is the one place where all of a dataset is at a time, so blocks are compressed. The worker that
sorts what it was given holds the index alone: the bytes of the items lie in a temporary file.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from oddsmill.pipeline.output.spill import refuse_temporary

# At level 1, ids take half of their bytes and text a third, at 500 MB/s.
_OPTIONS = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=1))
_PAYLOAD = "payload"


def encode_block(names: Sequence[str], items: Sequence[tuple[Sequence[int], bytes]]) -> bytes:
    """Encodes items as one block.

    Args:
      names: of the integers that each item has, each 0 or more and below 2**64.
      items: the integers of each, and its bytes.
    """
    columns = zip(*(integers for integers, _ in items), strict=True)
    arrays = [pa.array(column, pa.uint64()) for column in columns]
    arrays.append(pa.array([payload for _, payload in items], pa.large_binary()))
    batch = pa.record_batch(arrays, names=[*names, _PAYLOAD])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=_OPTIONS) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


class Items:
    """The items of opened blocks: their integers in memory, their bytes in a file.

    Attributes:
      columns: [n] uint64 each, by name.
    """

    def __init__(self, columns: dict[str, np.ndarray], starts: np.ndarray, descriptor: int):
        self.columns, self._starts, self._descriptor = columns, starts, descriptor

    def __len__(self) -> int:
        return len(self._starts)

    def take(self, indices: np.ndarray) -> "Items":
        """Returns some of the items, in the order of `indices`."""
        columns = {name: values[indices] for name, values in self.columns.items()}
        return Items(columns, self._starts[indices], self._descriptor)

    def payload(self, index: int) -> bytes:
        """Reads the bytes of one item."""
        start, size = self._starts[index].tolist()
        return os.pread(self._descriptor, size, start)


def _append(file: Any, payload: pa.Buffer | None) -> None:
    try:
        file.write(memoryview(payload) if payload else b"")
        file.flush()
    except OSError as error:
        raise refuse_temporary(error) from error


@contextmanager
def open_blocks(names: Sequence[str], blocks: Iterable[bytes]) -> Iterator[Items]:
    """Opens many blocks; yields their items, in the order of the blocks.

    Args:
      names: the names of the integers, as `encode_block` was given them.

    Raises:
      Refused: the temporary file has no room.
    """
    integers: list[np.ndarray] = [np.zeros((0, len(names)), np.uint64)]
    starts: list[np.ndarray] = [np.zeros((0, 2), np.int64)]
    with tempfile.TemporaryFile(prefix="oddsmill-") as file:
        for block in blocks:
            batch: Any = pa.ipc.open_stream(block).read_next_batch()
            integers.append(np.stack([batch.column(name).to_numpy() for name in names], axis=1))
            _, offsets, payload = batch.column(_PAYLOAD).buffers()
            bounds = np.frombuffer(offsets, np.int64, batch.num_rows + 1)
            starts.append(np.stack([file.tell() + bounds[:-1], np.diff(bounds)], axis=1))
            _append(file, payload)
        values = np.concatenate(integers)
        columns = {name: values[:, number].copy() for number, name in enumerate(names)}
        yield Items(columns, np.concatenate(starts), file.fileno())
