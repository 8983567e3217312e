"""Arrow IPC files, divided at their record batches, and Arrow IPC streams; and the rows of record batches."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from oddsmill.pipeline.input.kinds.arrow_values import as_plain, check_memory, is_plain, with_text_times
from oddsmill.pipeline.input.kinds.kind import (
    BATCH_BYTES,
    BATCH_ROWS,
    BrokenFile,
    DataFile,
    FileKind,
    FoundRow,
    Part,
    Span,
    whole_file,
)
from oddsmill.pipeline.input.kinds.streams import DAMAGE
from oddsmill.schemas.errors import Refused, one_line
from oddsmill.schemas.stores import is_remote, open_file, size_of

_OPTIONS = pa.ipc.IpcReadOptions(use_threads=False)


def number_rows(batches: Iterator[pa.RecordBatch], first_row: int, wanted: range) -> Iterator[FoundRow]:
    """Yields the wanted rows of record batches; no Python objects are made of the others.

    Args:
      first_row: The number of the first row of the first batch.
      wanted: The row numbers that are wanted.
    """
    number = first_row
    for batch in batches:
        if len(set(batch.schema.names)) != batch.num_columns:
            raise BrokenFile("two of its columns have one name")
        begin, end = max(wanted.start - number, 0), min(wanted.stop - number, batch.num_rows)
        check_memory(batch)
        batch = with_text_times(batch)
        row_bytes = batch.nbytes // max(1, batch.num_rows)
        at_a_time = max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, row_bytes)))
        for offset in range(begin, end, at_a_time):
            few = batch.slice(offset, min(at_a_time, end - offset))
            for index, (content, problem) in enumerate(_batch_rows(few)):
                yield FoundRow(number + offset + index, content, problem, row_bytes)
        number += batch.num_rows
        if number >= wanted.stop:
            return


@contextlib.contextmanager
def open_for_arrow(path: str) -> Iterator[pa.NativeFile]:
    """Opens a file for Arrow: a local one by its path, one of a store through `open_file`.

    A local file is not mapped into memory: the process would be killed if it were cut while it is read. The reader must
    stay in its own thread (`use_threads=False`, `pre_buffer=False`): a thread of Arrow's that lets go of bytes of a
    Python file aborts a process that is ending. Only the footer of an Arrow file is read in another, long before that.
    """
    if is_remote(path):
        with open_file(path) as file, pa.PythonFile(file) as source:
            yield source
    else:
        with pa.OSFile(path) as source:
            yield source


@contextlib.contextmanager
def refusing_damaged(file: DataFile) -> Iterator[None]:
    """Refuses a file whose directory cannot be read."""
    try:
        yield
    except DAMAGE as error:
        raise Refused(f"{file.path}: damaged {file.kind.name} file ({one_line(error)})") from error


def _divide_file(file: DataFile, part_bytes: int) -> list[Span]:
    with (
        refusing_damaged(file),
        open_for_arrow(file.path) as source,
        pa.ipc.open_file(source, options=_OPTIONS) as reader,
    ):
        batches = int(reader.num_record_batches)
    step = math.ceil(batches / max(1, math.ceil(size_of(file.path) / part_bytes)))
    return [Span(start, min(start + step, batches)) for start in range(0, batches, step or 1)]


def _file_batches(part: Part) -> Iterator[pa.RecordBatch]:
    with open_for_arrow(part.file.path) as source, pa.ipc.open_file(source, options=_OPTIONS) as reader:
        for index in range(part.span.start, part.span.end):
            yield reader.get_batch(index)


def _stream_batches(part: Part) -> Iterator[pa.RecordBatch]:
    with open_for_arrow(part.file.path) as source, pa.ipc.open_stream(source, options=_OPTIONS) as stream:
        yield from stream


def _count_file(part: Part) -> int:
    return sum(batch.num_rows for batch in _file_batches(part))


def _count_stream(part: Part) -> int:
    return sum(batch.num_rows for batch in _stream_batches(part))


def _read_file(part: Part, first_row: int, wanted: range) -> Iterator[FoundRow]:
    return number_rows(_file_batches(part), first_row, wanted)


def _read_stream(part: Part, first_row: int, wanted: range) -> Iterator[FoundRow]:
    return number_rows(_stream_batches(part), first_row, wanted)


def _batch_rows(batch: pa.RecordBatch) -> Iterator[tuple[bytes | dict[str, Any], str | None]]:
    """Yields the records of a batch; of one that cannot be read the bytes that are wrong, and the problem."""
    try:
        rows = batch.to_pylist(maps_as_pydicts="lossy")
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
        if batch.num_rows == 1:
            if isinstance(error, UnicodeDecodeError):
                yield bytes(error.object), f"byte {error.start} of a text is not UTF-8"
            else:
                yield str(batch.columns).encode(), f"a value that Python cannot hold: {one_line(error)}"
            return
        for index in range(batch.num_rows):
            yield from _batch_rows(batch.slice(index, 1))
        return
    mixed = [column.name for column in batch.schema if not is_plain(column.type)]
    for row in rows:
        for name in mixed:
            row[name] = as_plain(row[name])
        yield row, None


ARROW_FILE = FileKind(
    name="Arrow",
    magic=b"ARROW1",
    endings=(".arrow", ".feather"),
    is_counted_fast=True,
    divide=_divide_file,
    count=_count_file,
    read=_read_file,
)
ARROW_STREAM = FileKind(
    name="Arrow",
    magic=b"\xff\xff\xff\xff",
    is_counted_fast=True,
    divide=whole_file,
    count=_count_stream,
    read=_read_stream,
)
