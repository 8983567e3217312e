"""The Arrow stream that a row is stored as: its columns, and where their values stand in it.

Streams of equal counts differ in the values alone, so each is a copy of an empty one with the values filled in.
"""

from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
import pyarrow as pa

PLAIN_VERSION, UNSCORED_VERSION = 1, 2
SCHEMA_VERSIONS = (PLAIN_VERSION, UNSCORED_VERSION)
_VERSION_KEY = b"oddsmill.schema_version"
# The lists that a row has beside its tokens, in stored order; the last where it is not empty.
LISTS = {
    "prompt_lengths": np.int32,
    "chosen_lengths": np.int32,
    "rejected_lengths": np.int32,
    "pair_ids": np.uint64,
    "truncated": np.uint8,
    "unscored": np.int32,
}


def fill_record(tokens: np.ndarray, padding: np.ndarray, lists: Sequence[np.ndarray]) -> bytes:
    """Returns the record of a row: an Arrow IPC stream of one batch with one row.

    Args:
      tokens: [slots that hold a token].
      padding: [slots that hold none], of the same dtype.
      lists: the values of each of `LISTS`, of its dtype.
    """
    counts = tuple([values.size for values in lists])
    head, tail, starts = _empty_record(len(tokens) + len(padding), tokens.dtype, counts)
    filled = bytearray(tail)
    for start, values in zip(starts, lists, strict=False):
        filled[start : start + values.nbytes] = values.tobytes()
    return b"".join((head, tokens.data, padding.data, filled))


@cache
def _arrow_schema(row_length: int, dtype: np.dtype, version: int) -> pa.Schema:
    names = [name for name in LISTS if name != "unscored" or version == UNSCORED_VERSION]
    lists = {name: pa.list_(pa.from_numpy_dtype(LISTS[name])) for name in names}
    tokens = pa.list_(pa.from_numpy_dtype(dtype), row_length)
    return pa.schema({"tokens": tokens, **lists}, metadata={_VERSION_KEY: str(version)})


@lru_cache(maxsize=1024)
def _empty_record(row_length: int, dtype: np.dtype, counts: tuple[int, ...]) -> tuple[bytes, bytes, list[int]]:
    """Makes the record of a row whose values are all 0: records of equal counts differ in the values alone.

    Args:
      counts: the number of values in each of the lists of a row.

    Returns: what stands before the tokens; what stands behind them; where the values of each list begin in the latter.
    """
    schema = _arrow_schema(row_length, dtype, UNSCORED_VERSION if counts[-1] else PLAIN_VERSION)
    columns = [pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(row_length, dtype)), type=schema[0].type)]
    for column, count in zip(list(schema)[1:], counts, strict=False):
        values = pa.array(np.zeros(count, LISTS[column.name]))
        columns.append(pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), values))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    record = sink.getvalue()
    stored = pa.ipc.open_stream(record).read_next_batch().columns
    begin, *starts = (column.values.buffers()[1].address - record.address for column in stored)
    end = begin + row_length * dtype.itemsize
    return bytes(record[:begin]), bytes(record[end:]), [start - end for start in starts]


@lru_cache(maxsize=8)
def declared_columns(message: bytes) -> tuple[pa.Schema, int]:
    """Reads the columns and the row length in a stream's first message, which the rows of a dataset share.

    Raises:
      ValueError: they are of an unknown schema version, or not those of a row by name, type or order.
      pa.ArrowException: it is no such message.
    """
    schema = pa.ipc.read_schema(pa.py_buffer(message))
    version = (schema.metadata or {}).get(_VERSION_KEY, b"none").decode()
    if version not in map(str, SCHEMA_VERSIONS):
        known_versions = " and ".join(map(str, SCHEMA_VERSIONS))
        raise ValueError(f"schema version {version}, this reader knows {known_versions}: preprocess again")
    tokens = next((column.type for column in schema if column.name == "tokens"), pa.null())
    known = []
    if isinstance(tokens, pa.FixedSizeListType):
        known = [_arrow_schema(tokens.list_size, np.dtype(dtype), int(version)) for dtype in (np.uint16, np.int32)]
    if schema not in known:
        columns = ", ".join(f"{column.name}: {column.type}" for column in schema)
        raise ValueError(f"the columns are {columns}, which are not those of a row")
    return schema, tokens.list_size
