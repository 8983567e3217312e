"""CSV and TSV files with a header: one row a record. A broken record spoils itself only."""

import csv
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

from oddsmill.pipeline.input.kinds.kind import BrokenFile, FileKind, FoundRow, Part, count_by_reading, whole_file
from oddsmill.pipeline.input.kinds.streams import BYTE_ORDER_MARK, LONGEST_ROW, open_stream, read_line

_SEPARATORS = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a bar"}
# Some readers end a row there, others do not: what it means here cannot be told.
_LONE_CR = "a carriage return (CR) alone, outside quotes, ends no row: write the ends of rows as LF or CR LF"


def read_records(file: BinaryIO, delimiter: str) -> Iterator[tuple[bytes | dict[str, str], str | None]]:
    """Yields the records of a file under the names of its header, without blank lines.

    Yields: a record and None; or, where it is broken, its bytes and the problem.

    Raises:
      BrokenFile: A quoted field has no end, or the header is broken.
    """
    csv.field_size_limit(LONGEST_ROW)
    lines = _Lines(file)
    records = csv.reader(lines, delimiter=delimiter, strict=True)
    names = _header(records, delimiter)
    while True:
        lines.consumed.clear()
        problem, fields = None, []
        try:
            fields = next(records)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise BrokenFile("a quoted field has no end; is the file cut short?") from error
            problem = _LONE_CR if "new-line character" in str(error) else f"broken CSV: {error}"
        raw = b"".join(lines.consumed).rstrip(b"\r\n")
        if not raw:
            continue
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            problem = f"byte {error.start} (0x{raw[error.start]:02x}) is not UTF-8"
        if problem is None and len(fields) != len(names):
            problem = f"{len(fields)} fields where the header has {len(names)}"
        elif fields == names:
            problem = "the header once more: files were joined"
        if problem:
            yield raw, problem
            continue
        record = dict(zip(names, fields, strict=True))
        record.pop("", None)  # a column without a name, as the index of a table has it
        yield record, None


class _Lines(Iterator[str]):
    """Iterates over the lines of a file as text; keeps the bytes of the record that is being read in `consumed`."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.consumed: list[bytes] = []

    def __next__(self) -> str:
        line = read_line(self._file)
        if not line:
            raise StopIteration
        if not self.consumed:
            line = line.removeprefix(BYTE_ORDER_MARK)  # also in the middle, where files were joined
        self.consumed.append(line)
        return line.decode("utf-8", "surrogateescape")


def _header(records: Iterator[list[str]], delimiter: str) -> list[str]:
    try:
        names = [name.strip() for name in next(filter(None, records), [])]
    except csv.Error as error:
        problem = _LONE_CR if "new-line character" in str(error) else str(error)
        raise BrokenFile(f"broken header: {problem}") from error
    repeated = {name for name in names if name and names.count(name) > 1}
    if repeated:
        raise BrokenFile(f"the header has {', '.join(sorted(map(repr, repeated)))} more than once")
    other = next((each for each in _SEPARATORS if len(names) == 1 and each != delimiter and each in names[0]), None)
    if other:
        raise BrokenFile(
            f"the header is one field, {names[0]!r}: fields are separated by {_SEPARATORS[delimiter]} here (by a comma "
            f"in .csv, a tab in .tsv), and it looks as if yours were by {_SEPARATORS[other]}; write them so"
        )
    if any(name.startswith('"') for name in names):
        raise BrokenFile("a space before a quote in the header: what it quotes would not be read as one field")
    return names


def _read(part: Part, first_row: int, wanted: range, *, delimiter: str) -> Iterator[FoundRow]:
    with open_stream(part.file.path, part.file.compression) as file:
        for number, (content, problem) in enumerate(read_records(file, delimiter), first_row):
            size = len(content) if isinstance(content, bytes) else sum(map(len, content.values()))
            yield FoundRow(number, content, problem, size)


CSV, TSV = (
    FileKind(
        name=name,
        endings=(ending,),
        divide=whole_file,
        count=count_by_reading,
        read=partial(_read, delimiter=delimiter),  # not a closure: parts are pickled on their way to workers
    )
    for name, ending, delimiter in (("CSV", ".csv", ","), ("TSV", ".tsv", "\t"))
)
