"""Detection of the format of the input's rows, and the check that the settings of the source suit it."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Protocol

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats import votes
from oddsmill.pipeline.formats.layouts import Layout, find_layouts
from oddsmill.pipeline.formats.pairs import Pair
from oddsmill.pipeline.formats.parsing import FORMATS, as_row, parse_row
from oddsmill.pipeline.formats.rows import MESSAGE_SETTINGS
from oddsmill.pipeline.formats.user_function import load_function
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.schemas.drops import Dropped, DropReason
from oddsmill.schemas.errors import Refused, require

# Drops of rows that are understood.
_TELLING = (
    DropReason.UNSUPPORTED_CONTENT,
    DropReason.TIE,
    DropReason.SWAPPED_SCORES,
    DropReason.IDENTICAL_ANSWERS,
)


class ParseRow(Protocol):
    """Makes the pairs of a row of a known format, as `parse_row` does."""

    def __call__(
        self, raw: RawRow, *, source: SourceConfig, not_read: Counter[str] | None = None
    ) -> Sequence[Pair]: ...


def resolve_source(rows: Iterable[RawRow], *, source: SourceConfig, parse: ParseRow = parse_row) -> SourceConfig:
    """Returns the source with the settings filled in that were left open, as the first rows of a file tell them.

    Args:
      parse: reads rows of a known format, as the run will.

    Raises:
      Refused: there are no rows, or none becomes a pair under any format.
    """
    sample = list(rows)
    if source.format is not None and source.format not in FORMATS:
        return source  # a function of the user's, or a mistake, which `check_source` names
    if not sample:
        raise Refused(f"--source.path={source.path}: the input has no rows")
    for read in dict.fromkeys((parse_row, parse)):  # TRL's rules read more, and do not tell formats apart
        found = _find_source(sample, source, read)
        if found is not None:
            if found.format == "votes":
                votes.check_votes([as_row(raw, found) for raw in sample if _fields(raw)], found)
            return found
    if source.format is not None:
        return source
    raise _refusal(sample, source)


def _find_source(sample: Sequence[RawRow], source: SourceConfig, read: ParseRow) -> SourceConfig | None:
    """Finds the settings under which most of the rows become pairs.

    Names of ours are tried first. What other names mean is asked only where most rows are no pairs under these.

    Raises:
      Refused: the rows are those of a dataset that is not of pairs.
    """
    best, most = None, (0, 0)
    for layout in (Layout("", ()), *find_layouts([raw.values() for raw in sample if _fields(raw)], source)):
        if layout.advice:
            raise Refused(f"the rows are laid out as those of {layout.name}: {layout.advice}")
        is_guess = not layout.name and bool(layout.fields)
        formats = [layout.format or source.format] if layout.format or source.format else [*FORMATS]
        for name in formats:
            candidate = dataclasses.replace(
                source,
                format=name,
                fields=dict(layout.fields) | source.fields,
                vote_values=source.vote_values or dict(layout.vote_values),
            )
            count = _count_pairs(sample, candidate, read, votes_are_known=is_guess, may_be_another=len(formats) > 1)
            if count > most:
                best, most = candidate, count
        if most[0] > len(sample) / 2:
            break
    return best


def _count_pairs(
    sample: Sequence[RawRow], source: SourceConfig, read: ParseRow, *, votes_are_known: bool, may_be_another: bool
) -> tuple[int, int]:
    """Counts the rows that become pairs, and those that are dropped and yet tell the format: a tie, an image.

    Args:
      may_be_another: rows that read, and that are of another format, do not count.
      votes_are_known: a vote of unknown meaning says that the column does not hold votes as we read them: none counts.
    """
    pairs = told = 0
    for raw in sample:
        try:
            read(raw, source=source)
            is_pair = True
        except Dropped as dropped:
            if votes_are_known and dropped.detail.startswith("vote "):
                return 0, 0
            if dropped.reason not in _TELLING:
                continue
            is_pair = False
        with suppress(Dropped):
            if not may_be_another or FORMATS[source.format or ""].is_own(as_row(raw, source)):
                pairs, told = pairs + is_pair, told + (not is_pair)
    return pairs, told


def _refusal(sample: Sequence[RawRow], source: SourceConfig) -> Refused:
    """Says why no row is a pair."""
    first = next((raw for raw in sample if _fields(raw)), sample[0])
    known = _fields(first)
    fields = "fields: " + ", ".join(map(repr, known[:12]))
    if "label" in known and "rejected" not in known:
        return Refused(
            f"the rows are unpaired ({fields}): a label says of one answer whether it is good, and ORPO "
            "compares two answers to a prompt. Pair them, for instance with --source.format=module:function"
        )
    problems = [fields] * bool(known) + _problems(first, source)
    names = ", ".join([*FORMATS][:-1]) + f" or {[*FORMATS][-1]}"
    return Refused(
        f"none of the first {len(sample)} rows reads as {names} ({'; '.join(problems)}); "
        "say --source.format, and --source.fields where the fields have other names"
    )


def check_source(source: SourceConfig) -> None:
    """Refuses an unknown format, and settings of the source that its format does not use.

    Raises:
      Refused: names the setting.
    """
    format_name = source.format or ""
    if ":" in format_name:
        load_function(format_name)
        used: tuple[str, ...] = MESSAGE_SETTINGS
    else:
        require(
            format_name in FORMATS,
            "source.format",
            format_name,
            f"must be one of {', '.join(FORMATS)}, or module:function",
        )
        used = ("fields", *FORMATS[format_name].settings)
    unset = SourceConfig(path=source.path)
    for name in ("ranked_pairs", "margin", "vote_values", "roles", "message_keys", "fields"):
        value = getattr(source, name)
        if name not in used and value != getattr(unset, name):
            raise Refused(f"--source.{name}={value}: has no effect on the format {format_name}; leave it out")


def _fields(raw: RawRow) -> list[str]:
    """Returns the names of a row's fields; none where it is no object that can be read."""
    with suppress(Dropped):
        values = raw.values()
        return list(values) if isinstance(values, dict) else []
    return []


def _problems(raw: RawRow, source: SourceConfig) -> list[str]:
    """Returns why a row is no pair, format by format; once where that is not a matter of the format."""
    problems: dict[str, str] = {}
    for name in FORMATS:
        try:
            parse_row(raw, source=dataclasses.replace(source, format=name))
        except Dropped as dropped:
            problems[f"{name}: {dropped.detail}"] = str(dropped)
    reasons = list(dict.fromkeys(problems.values()))
    return reasons if len(reasons) == 1 else list(problems)
