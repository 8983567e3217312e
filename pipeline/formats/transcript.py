"""The format `transcript`: two whole dialogues as texts in the style of Anthropic's HH."""

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats.pairs import PreferencePair
from oddsmill.pipeline.formats.rows import Row, RowFormat
from oddsmill.schemas.chat.transcript import HH, Marks, find_marks
from oddsmill.schemas.drops import Dropped, DropReason


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


def _begins(dialogue: str, marks: Marks) -> bool:
    return dialogue.startswith(marks.human) or dialogue.lstrip().startswith(marks.human.lstrip())


FORMAT = RowFormat(read)
