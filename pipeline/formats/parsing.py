"""Parsing of rows into preference pairs. A row format is a module of this folder and its line in `FORMATS`."""

from collections.abc import Sequence

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats import messages, ranked, sharegpt, transcript, triple, user_function, votes
from oddsmill.pipeline.formats.pairs import Pair, PreferencePair
from oddsmill.pipeline.formats.ratings import check_scores
from oddsmill.pipeline.formats.rows import Row, kind_of
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.schemas.drops import Dropped, DropReason, dropping_errors

# Where a row reads under several, the first of them is its format.
FORMATS = {
    "triple": triple.FORMAT,
    "transcript": transcript.FORMAT,
    "messages": messages.FORMAT,
    "sharegpt": sharegpt.FORMAT,
    "ranked": ranked.FORMAT,
    "votes": votes.FORMAT,
}


@dropping_errors
def parse_row(raw: RawRow, *, format_name: str, source: SourceConfig) -> Sequence[Pair]:
    """Makes the pairs of a row (one, but of `ranked`) and checks what must hold of every pair.

    Args:
      format_name: one of `FORMATS`, or a function of the user's as `module:function`.

    Raises:
      Dropped: with the reason why it cannot.
    """
    row = as_row(raw, source)
    if ":" in format_name:
        pairs = user_function.call(format_name, dict(row.values), source)
    else:
        pairs = FORMATS[format_name].read(row, source)
        if FORMATS[format_name].has_scores:
            check_scores(row, source)
    for pair in pairs:
        if isinstance(pair, PreferencePair):
            check_texts(pair)
    return pairs


def as_row(raw: RawRow, source: SourceConfig) -> Row:
    """Reads a raw row as an object.

    Raises:
      Dropped: it cannot be read, or is something else.
    """
    values = raw.values()
    if not isinstance(values, dict):
        raise Dropped(DropReason.WRONG_TYPE, f"the row is {kind_of(values)}, not an object")
    return Row(values, source.fields)


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
