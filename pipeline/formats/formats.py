"""Formats: how a row becomes preference pairs. To add one, write a function and a line of `FORMATS`."""

import importlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from typing import Any

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.drops import Dropped, DropReason
from oddsmill.pipeline.formats import trl_rules
from oddsmill.pipeline.formats.dialogues import parse_messages, parse_sharegpt
from oddsmill.pipeline.formats.fields import Row, check_encodable, kind_of
from oddsmill.pipeline.formats.pairs import Pair, PreferencePair
from oddsmill.pipeline.formats.ranked import check_scores, parse_ranked, parse_votes
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.schemas.errors import Refused

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
Parser = Callable[[Row, SourceConfig], list[Any]]


def parse_triple(row: Row, _: SourceConfig) -> list[PreferencePair]:
    """Three strings: prompt, chosen, rejected."""
    return [PreferencePair(row.text("prompt"), row.text("chosen"), row.text("rejected"))]


def parse_transcript(row: Row, _: SourceConfig) -> list[PreferencePair]:
    """Two whole dialogues in the style of Anthropic's HH: the prompt is all up to the last answer.

    The prompt ends with the last "\\n\\nAssistant:" of chosen, and rejected must begin with it, so the split
    is by turns: answers that begin alike lose nothing to the prompt.
    """
    chosen, rejected = row.text("chosen"), row.text("rejected")
    for side, dialogue in (("chosen", chosen), ("rejected", rejected)):
        if not dialogue.startswith(HUMAN):
            raise Dropped(DropReason.BAD_ROLES, f"{side} does not begin with {HUMAN!r}")
        if dialogue.rfind(ASSISTANT) < dialogue.rfind(HUMAN):
            raise Dropped(DropReason.BAD_ROLES, f"{side} does not end with a turn of the assistant")
    prompt = chosen[: chosen.rfind(ASSISTANT) + len(ASSISTANT)]
    if not rejected.startswith(prompt):
        raise Dropped(DropReason.NO_COMMON_PROMPT, "the dialogues differ before the last answer of chosen")
    if HUMAN in rejected[len(prompt) :]:
        raise Dropped(DropReason.NO_COMMON_PROMPT, "rejected goes on after the last answer of chosen")
    return [PreferencePair(prompt, chosen[len(prompt) :], rejected[len(prompt) :])]


FORMATS: dict[str, Parser] = {
    "triple": parse_triple,
    "transcript": parse_transcript,
    "messages": parse_messages,
    "sharegpt": parse_sharegpt,
    "ranked": parse_ranked,
    "votes": parse_votes,
}
_PAIRED = ("triple", "transcript", "messages", "sharegpt")


def parse_row(raw: RawRow, *, format_name: str, source: SourceConfig, compat: str | None = None) -> list[Pair]:
    """Makes the pairs of a row (one, but of `ranked`) and checks what must hold of every pair.

    Args:
      format_name: one of `FORMATS`, or a function of the user's as `module:function`.
      compat: `trl` takes the prompt from the sides as TRL does, and keeps what it keeps.

    Raises:
      Dropped: with the reason why it cannot.
    """
    values = raw.values()
    if not isinstance(values, dict):
        raise Dropped(DropReason.WRONG_TYPE, f"the row is {kind_of(values)}, not an object")
    row = Row(values, source.fields)
    if compat == "trl" and format_name in trl_rules.FORMATS:
        return [trl_rules.parse_pair(row)]
    pairs = _call(format_name, values, source) if ":" in format_name else FORMATS[format_name](row, source)
    if format_name in _PAIRED:
        check_scores(row, source)
    for pair in pairs:
        if isinstance(pair, PreferencePair):
            check_texts(pair)
    return pairs


def check_texts(pair: PreferencePair) -> None:
    """Checks what must hold of a pair's texts.

    Raises:
      Dropped: a text is blank, or the answers are the same.
    """
    if not pair.prompt.strip():
        raise Dropped(DropReason.EMPTY_PROMPT, "nothing but white space" if pair.prompt else "empty string")
    for side in ("chosen", "rejected"):
        if not getattr(pair, side).strip():
            raise Dropped(DropReason.EMPTY_ANSWER, f"{side} is empty or white space")
    if pair.chosen == pair.rejected:
        raise Dropped(DropReason.IDENTICAL_ANSWERS, "chosen equals rejected")


@cache
def load_function(name: str) -> Callable[[dict[str, Any]], Any]:
    """The user's function of a format `module:function`.

    Raises:
      Refused: there is none.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise Refused(
            f"--source.format={name}: {error}; give module:function of a module that Python finds here and on workers"
        ) from error
    if not callable(found):
        raise Refused(f"--source.format={name}: {function} is not a function")
    return found


def detect_format(rows: Iterable[RawRow], *, source: SourceConfig, compat: str | None = None) -> str:
    """The format under which most of the rows become pairs.

    Raises:
      Refused: there are no rows, or none becomes a pair under any format.
    """
    sample = list(rows)
    if not sample:
        raise Refused(f"--source.path={source.path}: the input has no rows")
    for rules in dict.fromkeys((None, compat)):  # TRL's read more, and do not tell formats apart
        counts = dict.fromkeys(FORMATS, 0)
        for name in counts:
            for raw in sample:
                with suppress(Dropped):
                    parse_row(raw, format_name=name, source=source, compat=rules)
                    counts[name] += 1
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


def check_source(source: SourceConfig, format_name: str) -> None:
    """Refuses settings of the source that its format does not use.

    Raises:
      Refused: names the setting.
    """
    if ":" in format_name:
        load_function(format_name)
    for name, value, unset, formats in (
        ("ranked_pairs", source.ranked_pairs, "best_worst", ("ranked",)),
        ("margin", source.margin, 0.0, ("ranked", *_PAIRED)),
        ("vote_values", source.vote_values, {}, ("ranked", "votes")),
        ("fields", source.fields, {}, tuple(FORMATS)),
    ):
        if value != unset and format_name not in formats:
            raise Refused(f"--source.{name}={value}: has no effect on the format {format_name}; leave it out")


def _call(name: str, values: dict[str, Any], source: SourceConfig) -> list[Any]:
    """The pair that the user's function makes of a row: a mapping, three texts, or None."""
    try:
        made = load_function(name)(values)
    except Dropped:
        raise
    except Exception as error:
        raise Dropped(DropReason.USER_FUNCTION, f"{type(error).__name__}: {error}") from error
    if made is None:
        raise Dropped(DropReason.USER_FUNCTION, f"{name} gave None")
    if isinstance(made, tuple) and len(made) == 3:
        made = dict(zip(("prompt", "chosen", "rejected"), made, strict=True))
    if not isinstance(made, dict):
        raise Dropped(DropReason.WRONG_TYPE, f"{name} gave {kind_of(made)}, not a mapping, three values or None")
    row = Row(made, {})
    if all(isinstance(made.get(field), str) for field in ("prompt", "chosen", "rejected")):
        for field in ("prompt", "chosen", "rejected"):
            check_encodable(field, made[field])
        return parse_triple(row, source)
    return parse_messages(row, source)


def _fields(raw: RawRow) -> list[str]:
    """The names of a row's fields; none where it is no object that can be read."""
    with suppress(Dropped):
        values = raw.values()
        return list(values) if isinstance(values, dict) else []
    return []


def _problems(raw: RawRow, source: SourceConfig) -> list[str]:
    """Why a row is no pair, format by format; said once where that is not a matter of the format."""
    problems: dict[str, str] = {}
    for name in FORMATS:
        try:
            parse_row(raw, format_name=name, source=source)
        except Dropped as dropped:
            problems[f"{name}: {dropped.detail}"] = str(dropped)
    reasons = list(dict.fromkeys(problems.values()))
    return reasons if len(reasons) == 1 else list(problems)
