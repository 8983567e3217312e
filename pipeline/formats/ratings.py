"""Answers to a prompt and what people, or a model, thought of them: scores, votes, and the pair of two answers."""

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal
from itertools import takewhile
from typing import Any

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats.dialogues import as_answer, read_row_variables, split_dialogues
from oddsmill.pipeline.formats.pairs import Pair, PreferencePair
from oddsmill.pipeline.formats.rows import Row, check_encodable
from oddsmill.schemas.chat.messages import KNOWN, MessageForms, read_turns
from oddsmill.schemas.chat.tools import kind_of
from oddsmill.schemas.drops import Dropped, DropReason

_VOTES = (
    dict.fromkeys(("1", "a", "first"), "first")
    | dict.fromkeys(("2", "b", "second"), "second")
    | dict.fromkeys(("0", "tie", "tie (bothbad)", "both_bad", "bothbad", "both", "neither", "draw", "equal"), "tie")
)
_VOTED = re.compile(r"^(model|assistant|response|answer|completion|output|option|candidate)[ _-]?(?=[a-z0-9]$)")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)


def check_scores(row: Row, source: SourceConfig) -> None:
    """Holds a pair against its fields score_chosen and score_rejected, where a row has both.

    Raises:
      Dropped: the scores are equal, differ by no more than the margin, or say that rejected is better.
    """
    if not (row.has("score_chosen") and row.has("score_rejected")):
        return
    values = {name: row.value(name) for name in ("score_chosen", "score_rejected")}
    if any(map(is_absent, values.values())):
        return
    chosen, rejected = (read_number(value, name) for name, value in values.items())
    if abs(chosen - rejected) <= source.margin:
        raise Dropped(DropReason.TIE, f"scores {chosen:g} and {rejected:g}")
    if chosen < rejected:
        raise Dropped(DropReason.SWAPPED_SCORES, f"score_chosen is {chosen:g}, score_rejected {rejected:g}")


def make_pair(row: Row, chosen: Any, rejected: Any, forms: MessageForms = KNOWN) -> Pair:
    """Makes the pair of a row's prompt and two of its answers, which are texts or messages."""
    prompt = row.value("prompt") if "prompt" in row.names or "prompt" in row.values else None
    prompt = prompt if prompt is None else read_turns("the prompt", prompt, forms)
    sides = [
        read_turns(f"the {name} completion", side, forms) for name, side in (("chosen", chosen), ("rejected", rejected))
    ]
    if isinstance(prompt, str) and all(isinstance(side, str) for side in sides):
        return PreferencePair(
            row.text("prompt"), *(check_encodable("completions", side) for side in (chosen, rejected))
        )
    if prompt is None and all(isinstance(side, str) for side in sides):
        raise Dropped(DropReason.MISSING_FIELD, "no field 'prompt'")
    return split_dialogues(prompt, as_answer(sides[0]), as_answer(sides[1]), read_row_variables(row))


def is_absent(value: Any) -> bool:
    """Tells whether a rating is none: null, or the blank cell that stands for it in a table of texts."""
    return value is None or (isinstance(value, str) and not value.strip())


def read_number(value: Any, name: str) -> float:
    """Returns a number, which may be a decimal or the text of one, as a CSV file holds it.

    Raises:
      Dropped: it is none, or none that float64 holds: NaN, infinity, 10^400.
    """
    number = math.nan
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        with suppress(OverflowError, ValueError):  # of a decimal that signals NaN
            number = float(value)
    elif isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        number = float(value)
    if not math.isfinite(number):
        raise Dropped(DropReason.WRONG_TYPE, f"{name} holds {quote(value)}, not a number")
    return number


def quote(value: Any) -> str:
    """Quotes a value for a message, shortened where it is long."""
    text = kind_of(value) if isinstance(value, int) and value.bit_length() > 256 else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def read_vote(vote: Any, source: SourceConfig, names: Sequence[str] = ()) -> str:
    """Returns what a vote means: first, second or tie.

    Args:
      names: the columns of the two answers. A vote may name one of them, or say by what its name ends.

    Raises:
      Dropped: the vote is not known.
    """
    key = vote_key(vote)
    meaning: str | None
    if source.vote_values:
        meaning = {vote_key(value): meaning for value, meaning in source.vote_values.items()}.get(key)
    else:
        meaning = votes_for_column(vote, names) or _VOTES.get(key) or _VOTES.get(_VOTED.sub("", key, count=1))
    if meaning in (None, "unknown"):
        problem = f"vote {quote(vote)} is not known; say what it means by source.vote_values"
        raise Dropped(DropReason.WRONG_TYPE, problem)
    return meaning


def vote_key(vote: Any) -> str:
    """Writes a vote in one way: 1, 1.0, "1" and " 1.0" are the same, and so are true and "True"."""
    if isinstance(vote, float | Decimal) and math.isfinite(vote) and vote == int(vote):
        return str(int(vote))
    text = str(vote).strip().lower() if isinstance(vote, str | bool | int | float | Decimal) else ""
    return str(int(float(text))) if _NUMBER.fullmatch(text) and "e" not in text and float(text) % 1 == 0 else text


def votes_for_column(vote: Any, names: Sequence[str]) -> str | None:
    """Returns which of two columns a vote names, if either: response_0 by `response_0`, `0` or `model_0`.

    A vote of 2 on columns that are counted from 0 is unknown: it says that the votes count from 1.
    """
    if len(names) != 2:
        return None
    key = vote_key(vote)
    names = [name.lower() for name in names]
    same = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(*names, strict=False)))
    endings = [name[same:] for name in names]
    voted = _VOTED.sub("", key, count=1) if all(len(ending) == 1 for ending in endings) else key
    for which, meaning in enumerate(("first", "second")):
        if key == names[which] or voted == endings[which]:
            return meaning
    return "unknown" if voted == "2" and set(endings) == {"0", "1"} else None
