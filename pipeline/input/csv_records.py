"""Records of CSV and TSV files with a header; one that is broken spoils itself only."""

import csv
from collections.abc import Iterator
from typing import BinaryIO

from oddsmill.pipeline.input.file_forms import BYTE_ORDER_MARK, read_line
from oddsmill.pipeline.input.json_array import LONGEST_ROW


class BrokenTable(ValueError):
    """The file cannot be followed past this point; the message says why."""


def read_records(file: BinaryIO, delimiter: str) -> Iterator[tuple[bytes | dict[str, str], str | None]]:
    """The records of a file under the names of its header, blank lines left out.

    Returns: a record and None; or, where it is broken, its bytes and what is wrong with it.

    Raises:
      BrokenTable: a quoted field has no end, or the header is broken.
    """
    csv.field_size_limit(LONGEST_ROW)
    lines = _Lines(file)
    records = csv.reader(lines, delimiter=delimiter, strict=True)
    names = _header(records)
    while True:
        lines.consumed.clear()
        problem, fields = None, []
        try:
            fields = next(records)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise BrokenTable("a quoted field has no end; is the file cut short?") from error
            problem = f"broken CSV: {error}"
        raw = b"".join(lines.consumed).rstrip(b"\r\n")
        if not raw:
            continue
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            problem = f"byte {error.start} (0x{raw[error.start]:02x}) is not UTF-8"
        if problem is None and len(fields) != len(names):
            problem = f"{len(fields)} fields where the header has {len(names)}"
        yield (raw, problem) if problem else (dict(zip(names, fields, strict=True)), None)


class _Lines(Iterator[str]):
    """Lines of a file as text, kept as bytes in `consumed` for as long as their record is being read."""

    def __init__(self, file: BinaryIO):
        self._file, self._begun = file, False
        self.consumed: list[bytes] = []

    def __next__(self) -> str:
        line = read_line(self._file)
        if not line:
            raise StopIteration
        line = line if self._begun else line.removeprefix(BYTE_ORDER_MARK)
        self._begun = True
        self.consumed.append(line)
        return line.decode("utf-8", "surrogateescape")


def _header(records: Iterator[list[str]]) -> list[str]:
    try:
        names = next(records, [])
    except csv.Error as error:
        raise BrokenTable(f"broken header: {error}") from error
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise BrokenTable(f"the header has {', '.join(sorted(map(repr, repeated)))} more than once")
    return names
