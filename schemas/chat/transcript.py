"""Transcripts: dialogues as texts in the style of Anthropic's HH, and the turns in them."""

import re
from functools import cache
from typing import NamedTuple

from oddsmill.schemas.chat.template import Message


class Marks(NamedTuple):
    """The texts that open the turns of a transcript."""

    human: str
    assistant: str


HH = Marks("\n\nHuman:", "\n\nAssistant:")
_LABELS = (Marks("Human:", "Assistant:"), Marks("### Human:", "### Assistant:"), Marks("User:", "Assistant:"))


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


@cache
def _pattern(marks: Marks) -> re.Pattern[str]:
    gap = marks.human[: -len(marks.human.lstrip())]
    return re.compile(f"{gap}({re.escape(marks.human.lstrip())}|{re.escape(marks.assistant.lstrip())})")
