"""The formats `messages` and `sharegpt`: dialogues of messages, in every form that schemas/chat/messages.py reads.

Both are read alike; their name says by which key the roles are told.
"""

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats.dialogues import read_dialogues
from oddsmill.pipeline.formats.pairs import ChatPair
from oddsmill.pipeline.formats.rows import MESSAGE_SETTINGS, Row, RowFormat
from oddsmill.schemas.chat.messages import decode_messages


def read(row: Row, source: SourceConfig) -> list[ChatPair]:
    """Reads a prompt and its answers, or two whole conversations."""
    return [read_dialogues(row, source.forms)]


def is_sharegpt(row: Row) -> bool:
    """Says whether the first message of a row's answer names its role by `from`."""
    side = row.value("chosen")
    if isinstance(side, str):
        side = decode_messages("chosen", side)
    first = side[0] if isinstance(side, list) and side else side
    return isinstance(first, dict) and "from" in first


FORMAT = RowFormat(read, settings=("margin", *MESSAGE_SETTINGS))
SHAREGPT = FORMAT._replace(is_own=is_sharegpt)
