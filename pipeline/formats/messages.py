"""The format `messages`: dialogues of messages, in every form that schemas/chat/messages.py reads."""

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats.dialogues import read_dialogues
from oddsmill.pipeline.formats.pairs import ChatPair
from oddsmill.pipeline.formats.rows import MESSAGE_SETTINGS, Row, RowFormat


def read(row: Row, source: SourceConfig) -> list[ChatPair]:
    """Reads a prompt and its answers, or two whole conversations."""
    return [read_dialogues(row, source.forms)]


FORMAT = RowFormat(read, settings=("margin", *MESSAGE_SETTINGS))
