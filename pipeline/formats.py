"""Formats: how a row becomes a preference pair. To add one, write a function and a line of `FORMATS`."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from pipeline.config import FormatName
from pipeline.drops import Dropped, DropReason
from pipeline.sources import RawRow, parse_json
from schemas.errors import Refused

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


class PreferencePair(NamedTuple):
    """The three texts of a pair. The model reads prompt + chosen and prompt + rejected."""

    prompt: str
    chosen: str
    rejected: str


class Row(NamedTuple):
    """The fields of a row, under our names."""

    values: Mapping[str, Any]
    names: Mapping[str, str]

    def text(self, field: str) -> str:
        """The text of a field.

        Raises:
          Dropped: it is not there, or not a string that can be encoded.
        """
        name = self.names.get(field, field)
        if name not in self.values:
            raise Dropped(DropReason.MISSING_FIELD, f"no field {name!r}")
        value = self.values[name]
        if not isinstance(value, str):
            kind = "null" if value is None else type(value).__name__
            raise Dropped(DropReason.WRONG_TYPE, f"field {name!r} is {kind}, not a string")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            problem = f"field {name!r}: lone surrogate at character {error.start}"
            raise Dropped(DropReason.UNREADABLE, problem) from None
        return value


def parse_triple(row: Row) -> PreferencePair:
    """Three strings: prompt, chosen, rejected."""
    return PreferencePair(row.text("prompt"), row.text("chosen"), row.text("rejected"))


def parse_transcript(row: Row) -> PreferencePair:
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
    return PreferencePair(prompt, chosen[len(prompt) :], rejected[len(prompt) :])


FORMATS: dict[FormatName, Callable[[Row], PreferencePair]] = {
    "triple": parse_triple,
    "transcript": parse_transcript,
}


def parse_row(raw: RawRow, *, format_name: FormatName, fields: Mapping[str, str]) -> PreferencePair:
    """Makes a pair of a row and checks what must hold of every pair.

    Raises:
      Dropped: with the reason why it cannot.
    """
    values = parse_json(raw.content) if isinstance(raw.content, bytes) else raw.content
    if not isinstance(values, dict):
        raise Dropped(DropReason.WRONG_TYPE, f"the row is {type(values).__name__}, not an object")
    pair = FORMATS[format_name](Row(values, fields))
    if not pair.prompt.strip():
        raise Dropped(DropReason.EMPTY_PROMPT, "nothing but white space" if pair.prompt else "empty string")
    for side in ("chosen", "rejected"):
        if not getattr(pair, side).strip():
            raise Dropped(DropReason.EMPTY_ANSWER, f"{side} is empty or white space")
    if pair.chosen == pair.rejected:
        raise Dropped(DropReason.IDENTICAL_ANSWERS, "chosen equals rejected")
    return pair


def detect_format(rows: Iterable[RawRow], *, fields: Mapping[str, str]) -> FormatName:
    """The format under which most of the rows become pairs.

    Raises:
      Refused: none of the rows becomes a pair under any format.
    """
    sample = list(rows)
    counts = dict.fromkeys(FORMATS, 0)
    for name in counts:
        for raw in sample:
            try:
                parse_row(raw, format_name=name, fields=fields)
                counts[name] += 1
            except Dropped:
                continue
    best = max(counts, key=lambda name: counts[name])
    if counts[best] == 0:
        raise Refused(
            f"none of the first {len(sample)} rows reads as {' or '.join(FORMATS)} ({_first_fields(sample)}); "
            "say --source.format, and --source.fields where the fields have other names"
        )
    return best


def _first_fields(sample: list[RawRow]) -> str:
    if not sample:
        return "there are none"
    first = sample[0].content
    try:
        values = parse_json(first) if isinstance(first, bytes) else first
    except Dropped as dropped:
        return f"the first is unreadable: {dropped.detail}"
    if not isinstance(values, dict):
        return f"the first is {type(values).__name__}, not an object"
    return "fields of the first: " + ", ".join(map(repr, list(values)[:12]))
