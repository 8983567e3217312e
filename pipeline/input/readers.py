"""Readers: the rows of a part of a file, by the kind of the file. Every row is numbered; none is held longer."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from oddsmill.pipeline.input.csv_records import BrokenTable, read_records
from oddsmill.pipeline.input.file_forms import BYTE_ORDER_MARK, DAMAGE, FileForm, open_stream, read_line
from oddsmill.pipeline.input.json_array import BrokenArray, iterate_array
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.stores import is_remote, open_file, size_of

BATCH_ROWS = 256


class Part(NamedTuple):
    """What one worker reads at a time: a file, or a range of it where its form can be divided.

    Attributes:
      file: the number of the input, as an `Origin` has it.
      order: among all parts of the input.
      start, end: the range, in bytes of lines, Parquet row groups or Arrow record batches; end is None for a
        file that is not divided.
      numbered: a blank line has a row number, as in an editor; else only rows have.
      rows: in the part; None until they are counted.
      first_row: the number of the first; None until the parts before are counted.
      keep: the numbers wanted, from and up to but not including; None for all.
    """

    path: str
    file: int
    order: int
    form: FileForm
    start: int = 0
    end: int | None = None
    numbered: bool = True
    rows: int | None = None
    first_row: int | None = None
    keep: tuple[int, int] | None = None


class FoundRow(NamedTuple):
    """A row as its file has it, and why it cannot be read if that is known already."""

    number: int
    content: bytes | dict[str, Any]
    problem: str | None = None


def read_part(part: Part) -> Iterator[FoundRow]:
    """The rows of a part, in order.

    Raises:
      Refused: the file is damaged or cut short; says after which row.
    """
    number = (part.first_row or 0) - 1
    low, high = part.keep or (0, None)
    try:
        for found in _READERS[part.form.kind](part):
            number = found.number
            if high is not None and number >= high:
                return
            if number >= low:
                yield found
    except (BrokenArray, BrokenTable) as error:
        raise Refused(f"{part.path}, {_after(number)}: {error}") from error
    except DAMAGE as error:
        raise Refused(f"{part.path}, {_after(number)}: the file is damaged ({one_line(error)})") from error


def count_rows(part: Part) -> int:
    """How many row numbers a part takes.

    Raises:
      Refused: as `read_part`.
    """
    if part.rows is not None:
        return part.rows
    if part.form.kind == "lines" and part.form.compression is None and part.numbered:
        return _count_line_starts(part)
    if part.form.kind in ("arrow", "arrow_stream"):
        with _refusing_damage(part.path):
            return sum(batch.num_rows for batch in _arrow_batches(part))
    number = -1
    for found in read_part(part._replace(first_row=0, keep=None)):
        number = found.number
    return number + 1


def parquet_row_groups(path: str) -> list[int]:
    """Rows of each row group of a Parquet file.

    Raises:
      Refused: its directory is broken.
    """
    try:
        with _arrow_source(path) as source:
            metadata = pq.read_metadata(source)
            return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    except DAMAGE as error:
        raise Refused(f"{path}: damaged Parquet file ({one_line(error)})") from error


def count_record_batches(path: str) -> int:
    """Record batches of an Arrow file.

    Raises:
      Refused: its directory is broken.
    """
    try:
        with _arrow_source(path) as source, pa.ipc.open_file(source) as reader:
            return int(reader.num_record_batches)
    except DAMAGE as error:
        raise Refused(f"{path}: damaged Arrow file ({one_line(error)})") from error


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _after(number: int) -> str:
    return f"after row {number}" if number >= 0 else "before the first row"


def _read_lines(part: Part) -> Iterator[FoundRow]:
    """Lines end with "\\n" and with nothing else. The range has the lines that begin in it."""
    number = part.first_row or 0
    with open_stream(part.path, part.form.compression) as file:
        position = part.start
        if part.start:
            file.seek(part.start - 1)
            position = part.start - 1 + len(read_line(file))
        while part.end is None or position < part.end:
            line = read_line(file)
            if not line:
                return
            at_begin, position = position == 0, position + len(line)
            line = line.removeprefix(BYTE_ORDER_MARK) if at_begin else line
            if line.strip():
                yield FoundRow(number, line.rstrip(b"\r\n"))
            elif not part.numbered:
                continue
            number += 1


def _count_line_starts(part: Part) -> int:
    """A line begins at the first byte, and after every newline that is not the last byte."""
    with _refusing_damage(part.path), open_file(part.path) as file:
        end = size_of(part.path) if part.end is None else part.end
        position = max(part.start - 1, 0)
        count = 0 if part.start else 1
        file.seek(position)
        while position < end - 1:
            chunk = file.read(min(1 << 20, end - 1 - position))
            if not chunk:
                break
            count += chunk.count(b"\n")
            position += len(chunk)
        return count


def _read_array(part: Part) -> Iterator[FoundRow]:
    with open_stream(part.path, part.form.compression) as file:
        for number, element in enumerate(iterate_array(file), part.first_row or 0):
            yield FoundRow(number, element)


def _read_csv(part: Part) -> Iterator[FoundRow]:
    with open_stream(part.path, part.form.compression) as file:
        for number, record in enumerate(read_records(file, part.form.delimiter), part.first_row or 0):
            yield FoundRow(number, *record)


def _read_parquet(part: Part) -> Iterator[FoundRow]:
    with _arrow_source(part.path) as source, pq.ParquetFile(source) as file:
        groups = range(part.start, part.end or 0)
        yield from _numbered(file.iter_batches(BATCH_ROWS, row_groups=list(groups)), part)


def _read_arrow(part: Part) -> Iterator[FoundRow]:
    yield from _numbered(_arrow_batches(part), part)


def _arrow_batches(part: Part) -> Iterator[pa.RecordBatch]:
    with _arrow_source(part.path) as source:
        if part.form.kind == "arrow":
            with pa.ipc.open_file(source) as reader:
                for index in range(part.start, part.end or 0):
                    yield reader.get_batch(index)
        else:
            with pa.ipc.open_stream(source) as stream:
                yield from stream


def _numbered(batches: Iterator[pa.RecordBatch], part: Part) -> Iterator[FoundRow]:
    """Rows of batches; those before and after the wanted ones are not made into Python objects."""
    number = part.first_row or 0
    low, high = part.keep or (0, None)
    for batch in batches:
        begin = max(low - number, 0)
        end = batch.num_rows if high is None else min(high - number, batch.num_rows)
        for offset in range(begin, end, BATCH_ROWS):
            few = batch.slice(offset, min(BATCH_ROWS, end - offset))
            for index, (content, problem) in enumerate(_batch_rows(few)):
                yield FoundRow(number + offset + index, content, problem)
        number += batch.num_rows
        if high is not None and number >= high:
            return


def _batch_rows(batch: pa.RecordBatch) -> Iterator[tuple[bytes | dict[str, Any], str | None]]:
    """The records of a batch as dictionaries; one whose text is not UTF-8 as the bytes that are not."""
    try:
        batch.validate(full=True)  # a damaged one would be read past its end
    except pa.ArrowInvalid as error:
        if "UTF8" not in str(error):
            raise
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            yield bytes(error.object), f"byte {error.start} of a text is not UTF-8"
            return
        for index in range(batch.num_rows):
            yield from _batch_rows(batch.slice(index, 1))
        return
    for row in rows:
        yield row, None


@contextlib.contextmanager
def _arrow_source(path: str) -> Iterator[Any]:
    """A file as Arrow reads it: mapped into memory on this machine, else as its file system gives it."""
    if is_remote(path):
        with open_file(path) as file:
            yield pa.PythonFile(file)
    else:
        with pa.memory_map(path) as source:
            yield source


@contextlib.contextmanager
def _refusing_damage(path: str) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise Refused(f"{path}: the file is damaged ({one_line(error)})") from error


_READERS = {
    "lines": _read_lines,
    "array": _read_array,
    "csv": _read_csv,
    "parquet": _read_parquet,
    "arrow": _read_arrow,
    "arrow_stream": _read_arrow,
}
