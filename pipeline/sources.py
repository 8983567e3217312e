"""Input files and the rows in them. Every row knows its file and its number there."""

import glob
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.drops import Dropped, DropReason, Origin
from schemas.errors import Refused

BATCH_ROWS = 256
# Text of a compressed file, in bytes a byte: HH's .jsonl.gz has 3.6. For the number of shards, a guess does.
_INFLATION = 4


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """One input file, as it was when the run began."""

    path: str
    bytes: int
    sha256: str


class Part(NamedTuple):
    """What one worker reads at a time: a file of lines, or a row group of a Parquet file."""

    path: str
    file: int
    first_row: int
    row_group: int | None


class RawRow(NamedTuple):
    """A row as it was read: a line of JSON, or the values of a Parquet record."""

    origin: Origin
    content: bytes | dict[str, Any]

    def as_bytes(self) -> bytes:
        """The bytes that stand for this row in the source's fingerprint."""
        if isinstance(self.content, bytes):
            return self.content
        text = json.dumps(self.content, sort_keys=True, ensure_ascii=False, default=repr)
        return text.encode("utf-8", "surrogatepass")

    def as_text(self) -> str:
        """The whole row for the eyes of a person; bytes that are not UTF-8 are written as \\xNN."""
        return self.as_bytes().decode("utf-8", "backslashreplace")


def find_files(paths: list[str]) -> list[str]:
    """The files that paths and globs name, in the order given, a glob's in alphabetical order, each once.

    Raises:
      Refused: a path that is no file, or a glob that matches none.
    """
    found: list[str] = []
    for path in paths:
        if os.path.isfile(path):
            found.append(path)
        elif os.path.isdir(path):
            raise Refused(f"--source.path={path} is a folder; give its files, for instance {path}/*.jsonl")
        elif glob.has_magic(path):
            matches = sorted(filter(os.path.isfile, glob.glob(path, recursive=True)))
            if not matches:
                raise Refused(f"--source.path={path}: no file matches")
            found += matches
        else:
            raise Refused(f"--source.path={path}: no such file")
    return list(dict.fromkeys(found))


def describe_file(path: str) -> InputFile:
    """Size and digest of a file.

    Raises:
      Refused: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return InputFile(path=path, bytes=file.tell(), sha256=digest)
    except OSError as error:
        raise Refused(f"{path}: cannot be read ({error.strerror})") from error


def text_bytes(path: str) -> int:
    """About how many bytes of text a file holds."""
    return os.path.getsize(path) * (1 if _kind(path) == "lines" else _INFLATION)


def plan_parts(paths: list[str]) -> list[Part]:
    """Divides the files into what workers read.

    Raises:
      Refused: a Parquet file whose directory is broken.
    """
    parts: list[Part] = []
    for number, path in enumerate(paths):
        if _kind(path) != "parquet":
            parts.append(Part(path, number, 0, None))
            continue
        try:
            metadata = pq.read_metadata(path)
        except (pa.ArrowException, OSError) as error:
            raise Refused(f"{path}: damaged Parquet file ({_one_line(error)})") from error
        first_row = 0
        for group in range(metadata.num_row_groups):
            parts.append(Part(path, number, first_row, group))
            first_row += metadata.row_group(group).num_rows
    return parts


def read_batches(part: Part) -> Iterator[list[RawRow]]:
    """The rows of a part, at most `BATCH_ROWS` at a time.

    Raises:
      Refused: the file is damaged or cut short; says after which row.
    """
    rows = _read_lines(part) if part.row_group is None else _read_row_group(part, part.row_group)
    while batch := list(islice(rows, BATCH_ROWS)):
        yield batch


def parse_json(line: bytes) -> Any:
    """The value of one line.

    Raises:
      Dropped: as unreadable.
    """
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} (0x{line[error.start]:02x}) is not UTF-8"
    except json.JSONDecodeError as error:
        problem = f"broken JSON at character {error.pos}: {error.msg}"
    except (ValueError, RecursionError) as error:
        problem = f"broken JSON: {error}"
    raise Dropped(DropReason.UNREADABLE, problem)


def _kind(path: str) -> str:
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise Refused(f"{path}: cannot be read ({error.strerror})") from error
    return "parquet" if magic == b"PAR1" else "gzip" if magic[:2] == b"\x1f\x8b" else "lines"


def _read_lines(part: Part) -> Iterator[RawRow]:
    """Lines end with "\\n" and with nothing else; a blank one is no row, but it is counted."""
    row = -1
    try:
        with gzip.open(part.path) if _kind(part.path) == "gzip" else open(part.path, "rb") as file:
            for row, line in enumerate(file):
                line = line.removeprefix(b"\xef\xbb\xbf") if row == 0 else line
                if line.strip():
                    yield RawRow(Origin(part.file, row), line.rstrip(b"\r\n"))
    except (EOFError, zlib.error, OSError) as error:
        raise Refused(f"{part.path}, after row {row}: the file is damaged ({_one_line(error)})") from error


def _read_row_group(part: Part, group: int) -> Iterator[RawRow]:
    row = part.first_row
    try:
        with pq.ParquetFile(part.path) as file:
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[group]):
                for content in _batch_rows(batch):
                    yield RawRow(Origin(part.file, row), content)
                    row += 1
    except (pa.ArrowException, OSError) as error:
        raise Refused(f"{part.path}, after row {row - 1}: the file is damaged ({_one_line(error)})") from error


def _batch_rows(batch: pa.RecordBatch) -> Iterator[bytes | dict[str, Any]]:
    """The records of a batch as dictionaries; one whose text is not UTF-8 as bytes that say so."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                yield from batch.slice(index, 1).to_pylist()
            except UnicodeDecodeError as error:
                yield bytes(error.object)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
