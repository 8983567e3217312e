"""Detection of the format of the input's rows, and the check that the settings of the source suit it."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Protocol

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats.pairs import Pair
from oddsmill.pipeline.formats.parsing import FORMATS, as_row, parse_row
from oddsmill.pipeline.formats.rows import MESSAGE_SETTINGS
from oddsmill.pipeline.formats.user_function import load_function
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.schemas.drops import Dropped
from oddsmill.schemas.errors import Refused, require


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
    if source.format is not None:
        return source
    return dataclasses.replace(source, format=detect_format(rows, source=source, parse=parse))


def detect_format(rows: Iterable[RawRow], *, source: SourceConfig, parse: ParseRow = parse_row) -> str:
    """Returns the name of the format under which most of the rows become pairs.

    Args:
      parse: reads rows of a known format, as the run will.

    Raises:
      Refused: there are no rows, or none becomes a pair under any format.
    """
    sample = list(rows)
    if not sample:
        raise Refused(f"--source.path={source.path}: the input has no rows")
    for read in dict.fromkeys((parse_row, parse)):  # TRL's rules read more, and do not tell formats apart
        candidates = {name: dataclasses.replace(source, format=name) for name in FORMATS}
        counts = dict.fromkeys(FORMATS, 0)
        for name in counts:
            for raw in sample:
                with suppress(Dropped):
                    read(raw, source=candidates[name])
                    counts[name] += FORMATS[name].is_own(as_row(raw, source))
        best = max(counts, key=lambda name: counts[name])
        if counts[best]:
            return best
    first = next((raw for raw in sample if _fields(raw)), sample[0])
    known = _fields(first)
    fields = "fields: " + ", ".join(map(repr, known[:12]))
    if "label" in known and "rejected" not in known:
        raise Refused(
            f"the rows are unpaired ({fields}): a label says of one answer whether it is good, and ORPO "
            "compares two answers to a prompt. Pair them, for instance with --source.format=module:function"
        )
    problems = [fields] * bool(known) + _problems(first, source)
    names = ", ".join([*FORMATS][:-1]) + f" or {[*FORMATS][-1]}"
    raise Refused(
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
