"""The record that describes one kind of file, and the pieces of a file that workers read.

A kind is one module of this folder with its `FileKind`, and a line in the table of `recognition.py`.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Compression = Literal["gzip", "zstd"]
# The most rows that are read at a time and that travel together; fewer where they have more bytes.
BATCH_ROWS, BATCH_BYTES = 256, 8 << 20
# How many bytes of text a byte of a compressed file holds, for the number of shards: HH's .jsonl.gz has 3.6.
COMPRESSED_INFLATION = 4
# The end of a span that goes to the end of its file, and the number of rows of a part that need not be counted.
UNBOUNDED = sys.maxsize


class BrokenFile(ValueError):
    """Raised by a reader where a file cannot be followed any further; the message says why."""


class FoundRow(NamedTuple):
    """A row as its file has it.

    Attributes:
      number: The number of the row in its input, from 0.
      content: The bytes of a JSON text that is not parsed yet, or the values of a record by column.
      problem: Why the row cannot be read, where the reader knows that already; `content` is then the bytes there.
      size: About how many bytes the values of a record have.
    """

    number: int
    content: bytes | dict[str, Any]
    problem: str | None = None
    size: int = 0


class Span(NamedTuple):
    """A range of a file from `start` up to, not including, `end`.

    The unit is that of the kind: bytes of a file of lines, row groups of Parquet, record batches of Arrow.

    Attributes:
      rows: How many rows the range has, where the directory of the file says so.
    """

    start: int = 0
    end: int = UNBOUNDED
    rows: int | None = None


@dataclass(frozen=True, kw_only=True)
class FileKind:
    """One kind of file: how it is told from others, divided, counted and read.

    Attributes:
      name: The kind in messages.
      magic: The first bytes of every file of the kind; empty for text, which may also be compressed.
      endings: The ends of the names of text files of the kind. A file whose name ends as those of a kind with
        magic bytes do, and that does not begin with them, is refused as damaged.
      inflation: About how many bytes of text a byte of the file holds, for the number of shards.
      is_counted_fast: Counting its rows reads little of the file.
      divide: Takes a file and the number of bytes that a part should have at most; returns the spans, in order.
      count: Returns how many row numbers a part takes, or None if only reading it tells.
      read: Takes a part, the number of its first row and the row numbers that are wanted; yields the rows in order.
        It may leave out rows that are not wanted. It raises `BrokenFile`, or one of `streams.DAMAGE`.
    """

    name: str
    magic: bytes = b""
    endings: tuple[str, ...] = ()
    inflation: int = 1
    is_counted_fast: bool = False
    divide: Callable[["DataFile", int], list[Span]]
    count: Callable[["Part"], int | None]
    read: Callable[["Part", int, range], Iterator[FoundRow]]


class DataFile(NamedTuple):
    """A file of rows whose kind is known."""

    path: str
    kind: FileKind
    compression: Compression | None


class Part(NamedTuple):
    """A part of an input that one worker reads at a time.

    Attributes:
      input: The number of the input, as an `Origin` has it.
      order: The place of the part among all parts of the input.
      is_alone: The input has no other part, so its rows are numbered without being counted.
      blank_lines_count: A blank line takes a row number, so that numbers are those that an editor shows.
    """

    file: DataFile
    input: int
    order: int
    span: Span
    is_alone: bool
    blank_lines_count: bool


class CountedPart(NamedTuple):
    """A part and how many row numbers it takes; `UNBOUNDED` if it is alone."""

    part: Part
    rows: int


class NumberedPart(NamedTuple):
    """A part, the number of its first row, and which of its row numbers are wanted."""

    part: Part
    first_row: int
    wanted: range


def whole_file(file: DataFile, part_bytes: int) -> list[Span]:
    """Divides a file of a kind that can only be read from its begin to its end: it is one span."""
    return [Span()]


def count_by_reading(part: Part) -> None:
    """Counts the rows of a kind that only reading tells."""
