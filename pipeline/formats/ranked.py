"""Several answers to a prompt and what people, or a model, thought of them."""

import math
from collections import Counter
from itertools import combinations
from typing import Any

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.drops import Dropped, DropReason
from oddsmill.pipeline.formats.dialogues import as_answer, read_message, split_dialogues
from oddsmill.pipeline.formats.fields import Row, check_encodable, kind_of
from oddsmill.pipeline.formats.pairs import Message, Pair, PreferencePair

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


def parse_ranked(row: Row, source: SourceConfig) -> list[Pair]:
    """Completions with scores (higher is better), ranks (lower is better) or labels of their pairs.

    `preferences` holds a label a pair of completions, in the order (1, 2), (1, 3), … (2, 3), …: 1 where the
    first is better, 2 the second, 0 neither; a completion's score is then its wins less its losses.
    """
    answers = row.items("completions")
    if len(answers) < 2:
        raise Dropped(DropReason.MISSING_FIELD, f"{len(answers)} completions, at least 2 are needed")
    pairs = list(combinations(range(len(answers)), 2))
    margins = _margins(row, len(answers), source)
    if source.ranked_pairs == "all":
        better = [(i, j) if margins[i, j] > 0 else (j, i) for i, j in pairs if abs(margins[i, j]) > source.margin]
    else:
        totals = [sum(margins[i, j] for j in range(len(answers)) if j != i) for i in range(len(answers))]
        best, worst = totals.index(max(totals)), totals.index(min(totals))
        better = [(best, worst)] if best != worst and margins[best, worst] > source.margin else []
    if not better:
        by_more = f" by more than {source.margin:g}" if source.margin else ""
        raise Dropped(DropReason.TIE, f"no two scores differ{by_more}")
    return [make_pair(row, answers[i], answers[j]) for i, j in better]


def parse_votes(row: Row, source: SourceConfig) -> list[Pair]:
    """Two completions and who was for which; the one with most votes is chosen."""
    answers = row.items("completions")
    if len(answers) != 2:
        raise Dropped(DropReason.WRONG_TYPE, f"{len(answers)} completions, votes are on 2")
    names = row.names.get("votes", "votes")
    value = row.items("votes") if isinstance(names, list) else row.value("votes")
    votes = Counter(_read_vote(vote, source) for vote in (value if isinstance(value, list) else [value]))
    (winner, count), *others = votes.most_common() or [("tie", 0)]
    if winner == "tie" or (others and others[0][1] == count):
        raise Dropped(DropReason.TIE, ", ".join(f"{number} for {name}" for name, number in sorted(votes.items())))
    first, second = answers
    return [make_pair(row, first, second) if winner == "first" else make_pair(row, second, first)]


def check_scores(row: Row, source: SourceConfig) -> None:
    """Holds a pair against its fields score_chosen and score_rejected, where a row has both.

    Raises:
      Dropped: the scores are equal, differ by no more than the margin, or say that rejected is better.
    """
    if not (row.has("score_chosen") and row.has("score_rejected")):
        return
    chosen, rejected = (_read_number(row.value(name), name) for name in ("score_chosen", "score_rejected"))
    if abs(chosen - rejected) <= source.margin:
        raise Dropped(DropReason.TIE, f"scores {chosen:g} and {rejected:g}")
    if chosen < rejected:
        raise Dropped(DropReason.SWAPPED_SCORES, f"score_chosen is {chosen:g}, score_rejected {rejected:g}")


def make_pair(row: Row, chosen: Any, rejected: Any) -> Pair:
    """The pair of a row's prompt and two of its answers, which are texts or messages."""
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


def _margins(row: Row, count: int, source: SourceConfig) -> dict[tuple[int, int], float]:
    """By how much completion i is better than j, of all i and j."""
    fields = [name for name in ("scores", "ranks", "preferences") if row.has(name)]
    if len(fields) != 1:
        problem = f"has {' and '.join(fields)}" if fields else "has no scores, ranks or preferences"
        raise Dropped(DropReason.MISSING_FIELD if not fields else DropReason.WRONG_TYPE, f"the row {problem}")
    values = row.items(fields[0])
    pairs = list(combinations(range(count), 2))
    if fields[0] != "preferences":
        sign = -1.0 if fields[0] == "ranks" else 1.0
        scores = [sign * _read_number(value, fields[0]) for value in values]
    else:
        labels = [_read_vote(value, source) for value in values]
        labels = labels[: len(pairs)] if len(labels) == len(pairs) else []
        values = [0] * count if labels else []
        won = {"first": 1.0, "second": -1.0, "tie": 0.0}
        direct = {pair: won[label] for pair, label in zip(pairs, labels, strict=False)}
        direct |= {(j, i): -margin for (i, j), margin in direct.items()}
        if source.ranked_pairs == "all" and labels:
            return direct
        scores = [sum(margin for (i, _), margin in direct.items() if i == answer) for answer in range(count)]
    if len(values) != count:
        raise Dropped(DropReason.WRONG_TYPE, f"{fields[0]} do not fit {count} completions")
    return {(i, j): scores[i] - scores[j] for i in range(count) for j in range(count) if i != j}


def _read_number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Dropped(DropReason.WRONG_TYPE, f"{name} holds {value!r}, not a number")
    return float(value)


def _read_vote(vote: Any, source: SourceConfig) -> str:
    key = str(int(vote)) if isinstance(vote, float) and vote.is_integer() else str(vote)
    meaning = source.vote_values.get(key) if source.vote_values else _VOTES.get(key.lower())
    if meaning is None:
        raise Dropped(DropReason.WRONG_TYPE, f"vote {vote!r} is not known; say what it means by source.vote_values")
    return meaning
