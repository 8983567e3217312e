"""Answers to a prompt and what people, or a model, thought of them: scores, votes, and the pair of two answers."""

import math
from typing import Any

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats.dialogues import as_answer, split_dialogues
from oddsmill.pipeline.formats.messages import read_message
from oddsmill.pipeline.formats.pairs import Message, Pair, PreferencePair
from oddsmill.pipeline.formats.rows import Row, check_encodable, kind_of
from oddsmill.schemas.drops import Dropped, DropReason

_VOTES = {
    "1": "first",
    "2": "second",
    "0": "tie",
    "a": "first",
    "b": "second",
    "first": "first",
    "second": "second",
    "tie": "tie",
}


def check_scores(row: Row, source: SourceConfig) -> None:
    """Holds a pair against its fields score_chosen and score_rejected, where a row has both.

    Raises:
      Dropped: the scores are equal, differ by no more than the margin, or say that rejected is better.
    """
    if not (row.has("score_chosen") and row.has("score_rejected")):
        return
    chosen, rejected = (read_number(row.value(name), name) for name in ("score_chosen", "score_rejected"))
    if abs(chosen - rejected) <= source.margin:
        raise Dropped(DropReason.TIE, f"scores {chosen:g} and {rejected:g}")
    if chosen < rejected:
        raise Dropped(DropReason.SWAPPED_SCORES, f"score_chosen is {chosen:g}, score_rejected {rejected:g}")


def make_pair(row: Row, chosen: Any, rejected: Any) -> Pair:
    """Makes the pair of a row's prompt and two of its answers, which are texts or messages."""
    value = row.value("prompt")
    if isinstance(value, str) and isinstance(chosen, str) and isinstance(rejected, str):
        texts = [check_encodable("completions", text) for text in (chosen, rejected)]
        return PreferencePair(row.text("prompt"), *texts)
    prompt = [read_message(message) for message in value] if isinstance(value, list) else row.text("prompt")
    sides: list[list[Message]] = []
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if not isinstance(side, str | dict | list):
            problem = f"the {name} completion is {kind_of(side)}, not a text or messages"
            raise Dropped(DropReason.WRONG_TYPE, problem)
        messages = [side] if isinstance(side, dict) else side
        sides.append(as_answer(messages if isinstance(messages, str) else list(map(read_message, messages))))
    return split_dialogues(prompt, sides[0], sides[1])


def read_number(value: Any, name: str) -> float:
    """Returns a number; anything else drops the row."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Dropped(DropReason.WRONG_TYPE, f"{name} holds {value!r}, not a number")
    return float(value)


def read_vote(vote: Any, source: SourceConfig) -> str:
    """Returns what a vote means: first, second or tie; an unknown one drops the row."""
    key = str(int(vote)) if isinstance(vote, float) and vote.is_integer() else str(vote)
    meaning = source.vote_values.get(key) if source.vote_values else _VOTES.get(key.lower())
    if meaning is None:
        raise Dropped(DropReason.WRONG_TYPE, f"vote {vote!r} is not known; say what it means by source.vote_values")
    return meaning
