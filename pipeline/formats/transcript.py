"""The format `transcript`: two whole dialogues as texts in the style of Anthropic's HH."""

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats.pairs import PreferencePair
from oddsmill.pipeline.formats.rows import Row, RowFormat
from oddsmill.schemas.drops import Dropped, DropReason

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


def read(row: Row, _: SourceConfig) -> list[PreferencePair]:
    """Splits two whole dialogues before their last answer.

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
    return [PreferencePair(prompt, chosen[len(prompt) :], rejected[len(prompt) :])]


FORMAT = RowFormat(read)
