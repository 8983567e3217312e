"""Picking rows of the input: a sample, spread evenly, the same for the same input; or one row by its number."""

from collections.abc import Iterator
from typing import NamedTuple

from oddsmill.pipeline.input.kinds.kind import UNBOUNDED, NumberedPart
from oddsmill.pipeline.input.parts import (
    Input,
    count_part,
    count_rows,
    divide,
    number_parts,
    numbered_parts,
    read_batches,
)
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.schemas.errors import Refused

# Parts are at most 32 MB of text, so this many are read in seconds, whatever the size of the input.
PARTS_READ = 32


class Sample(NamedTuple):
    """Rows, and the number of rows of the whole input: exact if the sample is all of it, else an estimate."""

    rows: list[RawRow]
    total_rows: int


def sample_rows(inputs: list[Input], size: int, *, parts_read: int = PARTS_READ) -> Sample:
    """Picks about `size` rows, or all if there are no more.

    Raises:
      Refused: A file is damaged, or a slice out of range.
    """
    parts = numbered_parts(inputs)
    spans = [_wanted_rows(part) for part in parts]
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


def find_row(inputs: list[Input], wanted: str, file: int | None) -> RawRow:
    """Finds one row of the input.

    Args:
      wanted: The number of the row in its file, from 0, or FILE:NUMBER.
      file: The number of the file, where `wanted` names none.

    Raises:
      Refused: There is no such file or row, or several files have the number.
    """
    paths = [each.path for each in inputs]
    name, _, text = wanted.rpartition(":")
    number = int(text)
    named = [index for index, path in enumerate(paths) if path == name or path.endswith(f"/{name}")]
    files = "; ".join(f"{index} {path}" for index, path in enumerate(paths))
    if name:
        if len(named) != 1:
            problem = "several inputs end so" if named else "no such input"
            raise Refused(f"--row={wanted}: {problem}; there are {files}")
        index = named[0]
    elif file is None and len(inputs) > 1:
        raise Refused(f"--row={number}: there are {len(inputs)} inputs; say which by --file: {files}")
    else:
        index = file or 0
        if not 0 <= index < len(inputs):
            raise Refused(f"--file={index}: there are {files}")
    for part in number_parts(inputs[index], map(count_part, divide(index, inputs[index]))):
        if number not in part.wanted:
            continue
        for batch in read_batches(part):
            for row in batch:
                if row.origin.row == number:
                    return row
    raise Refused(f"--row={wanted}: {paths[index]} has no row {number}, or it is a blank line")


def _wanted_rows(numbered: NumberedPart) -> range:
    """Returns the row numbers that are wanted of a part; counts them if they are not counted yet."""
    wanted = numbered.wanted
    return range(count_rows(numbered.part)) if wanted.stop == UNBOUNDED else wanted


def _pick(part: NumberedPart, wanted: set[int]) -> Iterator[RawRow]:
    last = max(wanted, default=-1)
    for batch in read_batches(part) if wanted else ():
        yield from (row for row in batch if row.origin.row in wanted)
        if batch[-1].origin.row >= last:
            return
