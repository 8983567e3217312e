"""The source of each input with its open settings filled in: the layout of each file is told from its own rows."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from typing import NamedTuple

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats.context import columns_before
from oddsmill.pipeline.formats.detection import resolve_source
from oddsmill.pipeline.formats.layouts import describe_source
from oddsmill.pipeline.formats.pairs import Pair
from oddsmill.pipeline.formats.parsing import as_row
from oddsmill.pipeline.input.parts import Input, read_in_order
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.pipeline.input.sources import find_inputs
from oddsmill.pipeline.tokens.text_rules import TextRules
from oddsmill.schemas.drops import Dropped
from oddsmill.schemas.errors import Refused

# So many files of a source are looked at, spread evenly; where their layouts differ, all are.
FILES_LOOKED_AT = 256
_ROWS_LOOKED_AT = 2048
_ROWS_OF_A_FILE = range(8, 65)
_NEGLIGIBLE_SHARE = 0.01


class ResolvedSources(NamedTuple):
    """The sources of the inputs, and what the rows gave that were looked at.

    Attributes:
      of_inputs: the source of each input, with its format; inputs that are laid out alike share one.
      pairs: the pairs of the rows looked at.
      rows: the number of rows looked at that gave pairs.
      not_read: in how many of these rows a column holds something that is not read.
      before: in how many rows looked at a column holds a part of the prompt, such as the system's text.
      absent: the columns that the settings name and no row looked at has.
    """

    of_inputs: list[SourceConfig]
    pairs: list[Pair]
    rows: int
    not_read: Counter[str]
    before: Counter[str]
    absent: list[str]


class _Look(NamedTuple):
    """The first rows of a file, and the source as they tell it; a problem where they do not."""

    rows: list[RawRow]
    source: SourceConfig | None
    problem: Refused | None = None


def is_negligible(rows: int, part: int, whole: int) -> bool:
    """Tells whether a file is so small, by itself and beside the others, that a few bad rows may be all of it."""
    return rows < _ROWS_OF_A_FILE[0] and part < _NEGLIGIBLE_SHARE * whole


def find_all_inputs(sources: Sequence[SourceConfig]) -> list[Input]:
    """Returns the inputs of each source, one source after the other.

    Raises:
      Refused: as `find_inputs`; names the source where there are several.
    """
    inputs: list[Input] = []
    for number, source in enumerate(sources):
        with _naming(number, sources):
            inputs += [dataclasses.replace(each, source=number) for each in find_inputs(source)]
    return inputs


def resolve_sources(
    sources: Sequence[SourceConfig], inputs: list[Input], rules: TextRules, *, files_looked_at: int = FILES_LOOKED_AT
) -> ResolvedSources:
    """Tells how each input is laid out from its first rows.

    A file that is not looked at is taken to be laid out as the others of its source. If it is not, the end of the run
    finds that it has too many drops, as it does of each file.

    Raises:
      Refused: a source has no rows, the layout of a file cannot be told, or a setting of the source does not suit it.
    """
    of_inputs: dict[int, SourceConfig] = {}
    pairs: list[Pair] = []
    count, not_read = 0, Counter[str]()
    before, absent = Counter[str](), list[str]()
    for number, source in enumerate(sources):
        own = {index: each for index, each in enumerate(inputs) if each.source == number}
        with _naming(number, sources):
            looks, usual = _look_at_files(source, own, rules, files_looked_at)
            kinds = [usual]
            for index in own:
                told = (looks[index].source if index in looks else None) or usual
                if told not in kinds:
                    kinds.append(told)
                of_inputs[index] = kinds[kinds.index(told)]
            for kind in kinds:
                rules.check_source(kind)
        absent += _absent_columns(source, [row for look in looks.values() for row in look.rows])
        for index, look in looks.items():
            for row in look.rows:
                with suppress(Dropped):
                    pairs += rules.parse_row(row, source=of_inputs[index], not_read=not_read)
                    count += 1
                    before.update(columns_before(as_row(row, of_inputs[index])))
    return ResolvedSources([of_inputs[index] for index in range(len(inputs))], pairs, count, not_read, before, absent)


def _absent_columns(source: SourceConfig, rows: Sequence[RawRow]) -> list[str]:
    """Returns the columns and paths that a source names for fields and that none of some rows has."""
    named = [name for names in source.fields.values() for name in ([names] if isinstance(names, str) else names)]
    for raw in rows:
        with suppress(Dropped):
            row = as_row(raw, source)
            named = [name for name in named if row.column(name) is None]
        if not named:
            break
    return named


def describe_formats(
    of_inputs: Sequence[SourceConfig], inputs: Sequence[Input], sources: Sequence[SourceConfig]
) -> list[str]:
    """Returns the formats of a run, a line each; with the files where there are several."""
    files: dict[str, list[str]] = {}
    differ = any(resolved.meaning != of_inputs[0].meaning for resolved in of_inputs)
    unset = SourceConfig(path=".").meaning
    for resolved, file in zip(of_inputs, inputs, strict=True):
        given = sources[file.source]
        line = describe_source(resolved, given)
        if differ:
            line += "".join(f" {n}={v}" for n, v in given.meaning.items() if v != unset[n] and n != "format")
        files.setdefault(line, []).append(file.path)
    if len(files) == 1:
        return list(files)
    return [f"{line}: {_few(paths)}" for line, paths in files.items()]


def _few(paths: list[str]) -> str:
    more = f" and {len(paths) - 3:,} more" if len(paths) > 3 else ""
    return ", ".join(paths[:3]) + more


def _look_at_files(
    source: SourceConfig, own: dict[int, Input], rules: TextRules, files_looked_at: int
) -> tuple[dict[int, _Look], SourceConfig]:
    """Looks at the first rows of the files of one source: at some of many, at all where these differ.

    Returns: the looks by number of the input, and the source as most of them tell it.
    """
    numbers = list(own)
    some = [numbers[place * len(numbers) // files_looked_at] for place in range(files_looked_at)]
    looks = _look_at(some if len(numbers) > files_looked_at else numbers, source, own, rules)
    if len(_kinds(looks)) != 1:
        looks |= _look_at([number for number in numbers if number not in looks], source, own, rules)
    kinds = _kinds(looks)
    total = sum(each.bytes for each in own.values())
    for number, look in looks.items():
        if look.problem and not (kinds and is_negligible(len(look.rows), own[number].bytes, total)):
            raise look.problem
    if not kinds:
        raise Refused(f"--source.path={source.path}: the input has no rows")
    told = [look.source for look in looks.values()]
    return looks, max(kinds, key=told.count)


def _look_at(numbers: list[int], source: SourceConfig, own: dict[int, Input], rules: TextRules) -> dict[int, _Look]:
    size = sorted((_ROWS_OF_A_FILE[0], _ROWS_LOOKED_AT // max(1, len(numbers)), _ROWS_OF_A_FILE[-1]))[1]

    def look(number: int) -> _Look:
        rows = list(islice(read_in_order([own[number]]), size))
        if not rows:
            return _Look(rows, None)
        try:
            return _Look(rows, resolve_source(rows, source=source, parse=rules.parse_row))
        except Refused as problem:
            return _Look(rows, None, Refused(f"{own[number].path}: {problem}"))

    with ThreadPoolExecutor(8) as pool:  # a store takes a while for each answer
        return dict(zip(numbers, pool.map(look, numbers), strict=True))


def _kinds(looks: dict[int, _Look]) -> list[SourceConfig]:
    """Returns the different sources that the files tell."""
    kinds: list[SourceConfig] = []
    for look in looks.values():
        if look.source is not None and look.source not in kinds:
            kinds.append(look.source)
    return kinds


@contextmanager
def _naming(number: int, sources: Sequence[SourceConfig]) -> Iterator[None]:
    """Says in a refusal which of several sources it is about: `--source[1].format`."""
    try:
        yield
    except Refused as refused:
        if len(sources) == 1:
            raise
        raise Refused(str(refused).replace("--source.", f"--source[{number}].")) from refused
