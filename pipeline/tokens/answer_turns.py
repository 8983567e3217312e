"""Answers of several turns: which of their text the assistant writes itself, and which of their tokens no loss counts.

    rendered   <user>Weather?<end><assistant>call(Oslo)<end><tool>4 C<end><assistant>It is 4 C.<end>
    answer                                   call(Oslo)<end><tool>4 C<end><assistant>It is 4 C.<end>
    own                                      ~~~~~~~~~~~~~~~                         ~~~~~~~~~~~~~~~

A turn's own text is what the template adds for it after the generation prompt, its end of turn with it. What stands
between, turns of others and headers, the model reads and does not write.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise, takewhile
from typing import NamedTuple

from oddsmill.pipeline.formats.pairs import Ids, Message
from oddsmill.pipeline.tokens.differences import common_length
from oddsmill.schemas.chat.template import TemplateFailed
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.drops import Dropped, DropReason
from oddsmill.schemas.record import Spans

Render = Callable[[list[Message], bool], str]
# A text that takes the place of a turn's: no template writes it, and no text begins or ends with it.
_STAND_IN = "\ufffc"


class OwnText(NamedTuple):
    """The text of one of the assistant's turns: its characters, counted from the beginning of the answer."""

    begin: int
    end: int


def own_texts(prompt: list[Message], answer: list[Message], text: str, begin: int, render: Render) -> list[OwnText]:
    """Finds what the assistant writes itself in an answer of several turns.

    Args:
      text: the rendering of prompt and answer.
      begin: where the answer begins in it.
      render: renders a dialogue; true adds the generation prompt.

    Raises:
      Dropped: where the template writes a turn cannot be told.
    """
    turns, bounds = [*prompt, *answer], [begin]
    for index in range(len(prompt), len(turns)):
        if turns[index]["role"] == "assistant":
            is_first, is_last = index == len(prompt), index == len(turns) - 1
            bounds.append(begin if is_first else _begin_of(turns, index, text, render))
            bounds.append(len(text) if is_last else _end_of(turns, index, text, render))
    own = [OwnText(first, end) for first, end in zip(bounds[1::2], bounds[2::2], strict=True)]
    for index in range(len(prompt), len(turns)):
        if turns[index]["role"] != "assistant":  # with another content, nothing of what is told may differ
            alike, end, _ = _compare(text, _with_stand_in(turns, index, render))
            if any(alike < other.end and other.begin < end for other in own):
                raise _unclear(index)
    if any(after < before for before, after in pairwise(bounds)):
        raise _unclear(len(prompt))
    return [OwnText(first - begin, end - begin) for first, end in own]


def unscored_spans(ids: Sequence[int], ends: Sequence[int], own: Sequence[OwnText], tokenizer: Tokenizer) -> Spans:
    """Returns the tokens of an answer that the assistant does not write.

    A token belongs to the text that its last character is of. The token that ends a turn is the assistant's own.

    Args:
      ids: of the answer's text.
      ends: the character after each token, ascending.
      own: ascending.

    Raises:
      Dropped: no token is left.
    """
    spans, last = [], 0
    for number, (begin, end) in enumerate(own):
        first, after = bisect_right(ends, begin), bisect_right(ends, end)
        bound = bisect_right(ends, own[number + 1].begin) if number + 1 < len(own) else len(ids)
        after = _after_end_of_turn(ids[first:bound], after - first, tokenizer) + first
        if last < first < after:
            spans.append((last, first))
        last = max(last, after)
    if last < len(ids):
        spans.append((last, len(ids)))
    if sum(end - first for first, end in spans) == len(ids):
        raise Dropped(DropReason.EMPTY_ANSWER, "no token of an answer is the assistant's own")
    return spans


def cut_unscored(answer: Ids, spans: Spans) -> tuple[Ids, Spans]:
    """Fits the spans to an answer that was cut, and leaves out unscored tokens at its end, which nothing follows.

    Returns: the answer, without a token where none is scored, and its unscored spans.
    """
    spans = [(first, min(end, len(answer))) for first, end in spans if first < len(answer)]
    if spans and spans[-1][1] == len(answer):
        first, _ = spans.pop()
        answer = answer[:first]
    return answer, spans


def _begin_of(turns: list[Message], index: int, text: str, render: Render) -> int:
    """Finds where the text of a turn begins: after the generation prompt, or where another answer would part."""
    before = _tried(render, turns[:index], True)
    if before is not None and text.startswith(before):
        return len(before)
    header = _tried(render, turns[:index], False)
    alike, _, differing = _compare(text, _with_stand_in(turns, index, render))
    is_in_turn = header is not None and text.startswith(header) and alike >= len(header)
    if not is_in_turn and differing != _STAND_IN:
        raise _unclear(index)
    return alike


def _end_of(turns: list[Message], index: int, text: str, render: Render) -> int:
    """Finds where the text of a turn ends: where its rendering as the last turn does, or another answer would.

    A template may write a last turn otherwise than the same turn before others (it opens a reasoning, say).
    """
    through = _tried(render, turns[: index + 1], False)
    if through is not None and text.startswith(through):
        return len(through)
    _, end, differing = _compare(text, _with_stand_in(turns, index, render))
    if not differing.endswith(_STAND_IN):
        raise _unclear(index)
    return end


def _with_stand_in(turns: list[Message], index: int, render: Render) -> str:
    """Renders the dialogue with another content of a turn, and without its calls: the whole differs there alone."""
    turn = {name: value for name, value in turns[index].items() if name in ("role", "name", "tool_call_id")}
    other = _tried(render, [*turns[:index], turn | {"content": _STAND_IN}, *turns[index + 1 :]], False)
    if other is None:
        raise _unclear(index)
    return other


def _compare(text: str, other: str) -> tuple[int, int, str]:
    """Returns where a text begins and ends to differ from another, and what the other has there."""
    alike = common_length(text, other)
    at_end = min(common_length(text[::-1], other[::-1]), min(len(text), len(other)) - alike)
    return alike, len(text) - at_end, other[alike : len(other) - at_end]


def _tried(render: Render, turns: list[Message], generation_prompt: bool) -> str | None:
    """Renders a part of a dialogue, which the template may not take; None where it does not."""
    with suppress(TemplateFailed):
        return render(turns, generation_prompt)
    return None


def _after_end_of_turn(ids: Sequence[int], size: int, tokenizer: Tokenizer) -> int:
    """Returns the number of a turn's tokens where its text has `size`: the token that ends it may follow."""
    last = next((token for token in reversed(ids[:size]) if not tokenizer.is_space(token)), None)
    if last in tokenizer.answer_ends:
        return size
    rest = ids[size:]
    spaces = sum(1 for _ in takewhile(tokenizer.is_space, rest))
    if rest[spaces : spaces + 1] and rest[spaces] in tokenizer.answer_ends:
        end = size + spaces + 1
        return end + sum(1 for _ in takewhile(tokenizer.is_space, ids[end:]))
    return size


def _unclear(index: int) -> Dropped:
    problem = f"what the template writes of turn {index + 1} of the dialogue cannot be told from others"
    return Dropped(
        DropReason.TEMPLATE_NOT_PREFIX, f"{problem}, so what has no loss is not known; --answer_loss=all keeps it"
    )
