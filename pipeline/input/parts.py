"""Dividing an input among the workers, numbering its rows, and reading them. Every row knows its input and number."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from oddsmill.pipeline.input.changes import FileState
from oddsmill.pipeline.input.kinds.kind import (
    BATCH_BYTES,
    BATCH_ROWS,
    UNBOUNDED,
    BrokenFile,
    CountedPart,
    DataFile,
    FoundRow,
    NumberedPart,
    Part,
    Span,
)
from oddsmill.pipeline.input.kinds.recognition import recognize
from oddsmill.pipeline.input.kinds.streams import DAMAGE
from oddsmill.pipeline.input.rows import RawRow, make_row
from oddsmill.pipeline.input.splits import slice_rows
from oddsmill.schemas.drops import Origin
from oddsmill.schemas.errors import Refused, one_line

PART_BYTES = 32 << 20


@dataclass(frozen=True, kw_only=True)
class Input:
    """A file, or a split of a dataset with all its files, as it was at the start. Its rows are numbered from 0.

    Attributes:
      path: The name that rows give it, such as "rows.jsonl" or "hf://org/name/train".
      files: The files that are read for it, in this order.
      wanted: A split and slice such as "train[:5%]"; None for every row.
      bytes: The size of the files together.
      text_bytes: About how many bytes of text the wanted rows have.
      digest: Differs where the contents or the wanted rows differ.
      source: The number of its source in the settings.
      states: The state of each file at the start.
    """

    path: str
    files: list[str]
    wanted: str | None = None
    bytes: int = 0
    text_bytes: int = 0
    digest: str = ""
    source: int = 0
    states: list[FileState] = field(default_factory=list)


def divide(number: int, source: Input, *, part_bytes: int = PART_BYTES) -> list[Part]:
    """Divides an input into parts that workers read.

    Args:
      number: The number of the input among all inputs.
      part_bytes: The most bytes that a part of a text file has.

    Raises:
      Refused: A file is damaged in a way that shows at once, or is of a kind that is not read.
    """

    def spans_of(path: str) -> list[tuple[DataFile, Span]]:
        file = recognize(path)
        return [(file, span) for span in file.kind.divide(file, part_bytes)]

    with ThreadPoolExecutor(8) as pool:  # a store takes a while for each answer
        found = [each for spans in pool.map(spans_of, source.files) for each in spans]
    is_alone = len(found) == 1 and source.wanted is None
    return [
        Part(file, number, order, span, is_alone=is_alone, blank_lines_count=source.path == file.path)
        for order, (file, span) in enumerate(found)
    ]


def count_part(part: Part) -> CountedPart:
    """Counts the rows of a part, unless it is alone.

    Raises:
      Refused: The file is damaged or cut short.
    """
    return CountedPart(part, UNBOUNDED if part.is_alone else count_rows(part))


def count_rows(part: Part) -> int:
    """Returns how many row numbers a part takes.

    Raises:
      Refused: The file is damaged or cut short.
    """
    try:
        count = part.file.kind.count(part)
    except DAMAGE as error:
        raise Refused(f"{part.file.path}: the file is damaged ({one_line(error)})") from error
    if count is not None:
        return count
    number = -1
    for found in _read(NumberedPart(part, 0, range(UNBOUNDED))):
        number = found.number
    return number + 1


def number_parts(source: Input, parts: Iterable[CountedPart]) -> list[NumberedPart]:
    """Numbers the rows of an input.

    Args:
      parts: All parts of the input, in any order.

    Returns: the parts that have a row that is wanted, in order.

    Raises:
      Refused: The slice that is wanted is out of range or empty.
    """
    ordered = sorted(parts, key=lambda counted: counted.part.order)
    total = sum(counted.rows for counted in ordered)
    wanted = slice_rows(source.wanted, total, source.path) if source.wanted else range(total)
    numbered: list[NumberedPart] = []
    first_row = 0
    for part, rows in ordered:
        start, stop = max(first_row, wanted.start), min(first_row + rows, wanted.stop)
        if start < stop:
            numbered.append(NumberedPart(part, first_row, range(start, stop)))
        first_row += rows
    return numbered


def numbered_parts(inputs: list[Input]) -> list[NumberedPart]:
    """Divides, counts and numbers all inputs, one after the other.

    Raises:
      Refused: A file is damaged, or a slice out of range.
    """
    return [
        part
        for number, source in enumerate(inputs)
        for part in number_parts(source, map(count_part, divide(number, source)))
    ]


def read_batches(part: NumberedPart) -> Iterator[list[RawRow]]:
    """Yields the wanted rows of a part, some at a time, within `BATCH_ROWS` and `BATCH_BYTES`. They are not parsed yet.

    Raises:
      Refused: The file is damaged or cut short; the message says after which row.
    """
    batch: list[RawRow] = []
    size = 0
    for number, content, problem, row_bytes in _read(part):
        batch.append(RawRow(Origin(part.part.input, number), content, problem))
        size += row_bytes or len(content)
        if size >= BATCH_BYTES or len(batch) == BATCH_ROWS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def read_in_order(inputs: list[Input]) -> Iterator[RawRow]:
    """Yields all rows of the inputs one by one, reads no further than it is asked for, and disregards slices.

    Raises:
      Refused: A file is damaged or cut short.
    """
    for number, source in enumerate(inputs):
        first_row = 0
        for path in source.files:
            file = Input(path=source.path, files=[path])
            for part in divide(number, file, part_bytes=UNBOUNDED):
                row = None
                for batch in read_batches(NumberedPart(part, first_row, range(first_row, UNBOUNDED))):
                    for row in batch:
                        yield make_row(*row[:3])
                first_row = row.origin.row + 1 if row else first_row


def _read(numbered: NumberedPart) -> Iterator[FoundRow]:
    """Yields the wanted rows of a part, in order.

    Raises:
      Refused: The file is damaged or cut short; the message says after which row.
    """
    part, first_row, wanted = numbered
    number = first_row - 1
    try:
        for found in part.file.kind.read(part, first_row, wanted):
            number = found.number
            if number >= wanted.stop:
                return
            if number >= wanted.start:
                yield found
    except (BrokenFile, *DAMAGE) as error:
        place = f"after row {number}" if number >= 0 else "before the first row"
        problem = str(error) if isinstance(error, BrokenFile) else f"the file is damaged ({one_line(error)})"
        raise Refused(f"{part.file.path}, {place}: {problem}") from error
