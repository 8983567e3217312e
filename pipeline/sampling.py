"""A sample of rows, spread evenly over the input. The same input gives the same sample."""

from collections.abc import Iterator
from typing import NamedTuple

from pipeline.readers import Part, count_rows
from pipeline.sources import Input, RawRow, count_part, divide, number_parts, read_batches

# Parts are at most 32 MB of text: so many are read in seconds, whatever the size of the input.
PARTS_READ = 32


class Sample(NamedTuple):
    """Rows, and how many the whole input has: counted where the sample is all of it, else an estimate."""

    rows: list[RawRow]
    total_rows: int


def sample_rows(inputs: list[Input], size: int, *, parts_read: int = PARTS_READ) -> Sample:
    """About `size` rows, or all if there are no more.

    Raises:
      Refused: a file is damaged, or a slice out of range.
    """
    parts = numbered_parts(inputs)
    spans = [_span(part) for part in parts]
    numbers = sum(map(len, spans))
    step = max(1, len(parts) / parts_read)
    read = [int(index * step) for index in range(min(len(parts), parts_read))]
    read_numbers = sum(len(spans[index]) for index in read)
    taken = min(size, read_numbers)
    wanted = [place * read_numbers // taken for place in range(taken)] if taken else []
    rows: list[RawRow] = []
    before = 0
    for index in read:
        own = {spans[index][place - before] for place in wanted if 0 <= place - before < len(spans[index])}
        rows += _pick(parts[index], own)
        before += len(spans[index])
    # A blank line has a number and is no row.
    return Sample(rows, round(numbers * len(rows) / taken) if taken else 0)


def numbered_parts(inputs: list[Input]) -> list[Part]:
    """The parts of all inputs, each with the number of its first row.

    Raises:
      Refused: as `sample_rows`.
    """
    return [
        part
        for number, source in enumerate(inputs)
        for part in number_parts(source, map(count_part, divide(number, source)))
    ]


def _span(part: Part) -> range:
    """The row numbers that are wanted of a part."""
    first = part.first_row or 0
    low, high = part.keep or (0, first + count_rows(part))
    return range(max(first, low), min(first + count_rows(part), high))


def _pick(part: Part, wanted: set[int]) -> Iterator[RawRow]:
    last = max(wanted, default=-1)
    for batch in read_batches(part) if wanted else ():
        yield from (row for row in batch if row.origin.row in wanted)
        if batch[-1].origin.row >= last:
            return
