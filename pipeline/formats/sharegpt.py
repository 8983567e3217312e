"""The format `sharegpt`: dialogues of messages with from and value, whose roles are ours under other names."""

from typing import Any

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats.dialogues import ROLES, read_content, read_dialogues, shape_of
from oddsmill.pipeline.formats.pairs import ChatPair, Message
from oddsmill.pipeline.formats.rows import Row, RowFormat
from oddsmill.schemas.drops import Dropped, DropReason

_ROLES_BY_NAME = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function": "tool",
} | {role: role for role in ROLES}


def read(row: Row, _: SourceConfig) -> list[ChatPair]:
    """Reads a prompt and its answers, or two whole conversations."""
    return [read_dialogues(row, read_message)]


def read_message(value: Any) -> Message:
    """Reads a message.

    Raises:
      Dropped: it is no message of from and value.
    """
    if not isinstance(value, dict) or "from" not in value or "value" not in value:
        raise Dropped(DropReason.WRONG_TYPE, f"a message is {shape_of(value)}, not an object of from and value")
    role = _ROLES_BY_NAME.get(value["from"]) if isinstance(value["from"], str) else None
    if role is None:
        raise Dropped(DropReason.BAD_ROLES, f"from {value['from']!r} is not one of {', '.join(_ROLES_BY_NAME)}")
    return {"role": role, "content": read_content(value["value"])}


FORMAT = RowFormat(read)
