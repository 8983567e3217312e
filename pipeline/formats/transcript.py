"""The format `transcript`: two whole dialogues as texts in the style of Anthropic's HH."""

import re
from functools import cache
from typing import NamedTuple

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats.pairs import Message, PreferencePair
from oddsmill.pipeline.formats.rows import Row, RowFormat
from oddsmill.schemas.drops import Dropped, DropReason


class Marks(NamedTuple):
    """The texts that open the turns of a transcript."""

    human: str
    assistant: str


HH = Marks("\n\nHuman:", "\n\nAssistant:")
_LABELS = (Marks("Human:", "Assistant:"), Marks("### Human:", "### Assistant:"), Marks("User:", "Assistant:"))


def read(row: Row, _: SourceConfig) -> list[PreferencePair]:
    """Splits two whole dialogues before their last answer.

    The prompt ends with the last "\\n\\nAssistant:" of chosen, and rejected must begin with it, so the split
    is by turns: answers that begin alike lose nothing to the prompt. Transcripts may begin without the blank line.
    """
    chosen, rejected = row.text("chosen"), row.text("rejected")
    marks = find_marks(chosen)
    for side, dialogue in (("chosen", chosen), ("rejected", rejected)):
        if marks is None or not _begins(dialogue, marks):
            raise Dropped(DropReason.BAD_ROLES, f"{side} does not begin with {(marks or HH).human!r}")
        if dialogue.rfind(marks.assistant) < max(0, dialogue.rfind(marks.human)):
            raise Dropped(DropReason.BAD_ROLES, f"{side} does not end with a turn of the assistant")
    assert marks is not None
    prompt = chosen[: chosen.rfind(marks.assistant) + len(marks.assistant)]
    if not rejected.startswith(prompt):
        raise Dropped(DropReason.NO_COMMON_PROMPT, "the dialogues differ before the last answer of chosen")
    if marks.human in rejected[len(prompt) :]:
        raise Dropped(DropReason.NO_COMMON_PROMPT, "rejected goes on after the last answer of chosen")
    return [PreferencePair(prompt, chosen[len(prompt) :], rejected[len(prompt) :])]


def read_transcript(text: str) -> list[Message] | None:
    """Returns the turns of a text that is a transcript up to an answer; None where it is none.

    Without the blank line before its first turn it is one only where it opens the answer.
    """
    marks = find_marks(text)
    opens_answer = marks is not None and text.rstrip().endswith(marks.assistant)
    if marks is None or not (opens_answer or text.startswith(HH.human)):
        return None
    parts = _pattern(marks).split("\n\n" + text.strip())
    turns = [
        {"role": "user" if mark in marks.human else "assistant", "content": said.strip()}
        for mark, said in zip(parts[1::2], parts[2::2], strict=True)
    ]
    return turns[:-1] if opens_answer else turns


def find_marks(text: str) -> Marks | None:
    """Returns the marks of a transcript by how it begins; None where it is none."""
    if text.startswith(HH.human):
        return HH
    start = text.lstrip()
    for labels in _LABELS:
        if start.startswith(labels.human):
            gap = "\n\n" if f"\n\n{labels.assistant}" in text else "\n"
            return Marks(gap + labels.human, gap + labels.assistant)
    return None


def _begins(dialogue: str, marks: Marks) -> bool:
    return dialogue.startswith(marks.human) or dialogue.lstrip().startswith(marks.human.lstrip())


@cache
def _pattern(marks: Marks) -> re.Pattern[str]:
    gap = marks.human[: -len(marks.human.lstrip())]
    return re.compile(f"{gap}({re.escape(marks.human.lstrip())}|{re.escape(marks.assistant.lstrip())})")


FORMAT = RowFormat(read)
