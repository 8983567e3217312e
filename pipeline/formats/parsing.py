"""Parsing of rows into preference pairs. A row format is a module of this folder and its line in `FORMATS`."""

from collections import Counter
from collections.abc import Sequence

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats import messages, ranked, transcript, triple, user_function, votes
from oddsmill.pipeline.formats.context import add_context, as_chat, read_context
from oddsmill.pipeline.formats.pairs import Pair, PreferencePair
from oddsmill.pipeline.formats.ratings import check_scores
from oddsmill.pipeline.formats.rows import Row
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.schemas.chat.tools import kind_of
from oddsmill.schemas.drops import Dropped, DropReason, dropping_errors

# Where a row reads under several, the first of them is its format.
FORMATS = {
    "triple": triple.FORMAT,
    "transcript": transcript.FORMAT,
    "sharegpt": messages.SHAREGPT,
    "messages": messages.FORMAT,
    "ranked": ranked.FORMAT,
    "votes": votes.FORMAT,
}


@dropping_errors
def parse_row(
    raw: RawRow, *, source: SourceConfig, not_read: Counter[str] | None = None, chat: bool = False
) -> Sequence[Pair]:
    """Makes the pairs of a row (one, but of `ranked`) and checks what must hold of every pair.

    Args:
      source: its format is known: one of `FORMATS`, or a function of the user's as `module:function`.
      chat: texts are made dialogues: the prompt is the user's, the answers are the assistant's.
      not_read: counts one more for each column that holds something and that no part of the format looked at.

    Raises:
      Dropped: with the reason why it cannot.
    """
    row = given = as_row(raw, source)
    assert source.format is not None
    if ":" in source.format:
        row = user_function.call(source.format, given.whole())
        pairs = user_function.read(row, source)
    else:
        row_format = FORMATS[source.format]
        pairs = row_format.read(row, source)
        if row_format.has_scores:
            check_scores(row, source)
    for pair in pairs:
        if isinstance(pair, PreferencePair):
            check_texts(pair)
    context = read_context(row, source.forms)
    if chat:
        pairs = [as_chat(pair, context, row) for pair in pairs]
    elif context is not None:
        pairs = [add_context(pair, context) for pair in pairs]
    if not_read is not None:
        given.count_not_read(not_read)
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
    if not pair.prompt or pair.prompt.isspace():
        raise Dropped(DropReason.EMPTY_PROMPT, "nothing but white space" if pair.prompt else "empty string")
    for side, text in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        if not text or text.isspace():
            raise Dropped(DropReason.EMPTY_ANSWER, f"{side} is empty or white space")
    if pair.chosen == pair.rejected:
        raise Dropped(DropReason.IDENTICAL_ANSWERS, "chosen equals rejected")
