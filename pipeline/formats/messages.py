"""The format `messages`: dialogues of messages with role and content."""

from typing import Any

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats.dialogues import ROLES, read_content, read_dialogues, shape_of
from oddsmill.pipeline.formats.pairs import ChatPair, Message
from oddsmill.pipeline.formats.rows import Row, RowFormat
from oddsmill.schemas.drops import Dropped, DropReason


def read(row: Row, _: SourceConfig) -> list[ChatPair]:
    """Reads a prompt and its answers, or two whole conversations."""
    return [read_dialogues(row, read_message)]


def read_message(value: Any) -> Message:
    """Reads a message; keys that are null are left out, as Parquet adds them to every message.

    Raises:
      Dropped: it is no message of role and content.
    """
    if not isinstance(value, dict) or "role" not in value:
        raise Dropped(DropReason.WRONG_TYPE, f"a message is {shape_of(value)}, not an object of role and content")
    role, content = value["role"], value.get("content")
    if role not in ROLES:
        raise Dropped(DropReason.BAD_ROLES, f"role {role!r} is not one of {', '.join(ROLES)}")
    more = {key: part for key, part in value.items() if key not in ("role", "content") and part is not None}
    if content is None and "tool_calls" in more:
        return {"role": role, "content": None} | more
    return {"role": role, "content": read_content(content)} | more


FORMAT = RowFormat(read)
