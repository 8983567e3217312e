"""Dialogues of messages with roles, for every format that has them: the prompt ends at a turn."""

import json
from collections.abc import Callable
from typing import Any

from oddsmill.pipeline.formats.pairs import ChatPair, Message, chat_pair
from oddsmill.pipeline.formats.rows import Row, kind_of
from oddsmill.schemas.drops import Dropped, DropReason

SYSTEM_ROLES = ("system", "developer")
ROLES = (*SYSTEM_ROLES, "user", "assistant", "tool")
_PROMPT_NAMES = ("conversations", "messages")


def read_dialogues(row: Row, read: Callable[[Any], Message]) -> ChatPair:
    """Makes the pair of a row's prompt and sides, which are dialogues.

    Args:
      read: makes a message of ours of one of the row's.

    Raises:
      Dropped: with the reason why these are no pair.
    """
    chosen, rejected = (_read_side(side, row.value(side), read) for side in ("chosen", "rejected"))
    prompt = _read_prompt(row, read)
    if isinstance(chosen, str) and isinstance(rejected, str) and not isinstance(prompt, list):
        raise Dropped(DropReason.WRONG_TYPE, "prompt, chosen and rejected are strings, not messages")
    return split_dialogues(prompt, as_answer(chosen), as_answer(rejected), read_variables(row))


def split_dialogues(
    prompt: list[Message] | str | None,
    chosen: list[Message],
    rejected: list[Message],
    variables: dict[str, Any] | None = None,
) -> ChatPair:
    """Splits two sides before their last turn: the turns before it are the prompt, and both sides share them.

    Args:
      prompt: None where the sides are whole conversations. A side that begins with the prompt is whole too.
        A string is the only turn of the user, or one of them where the sides are whole.

    Raises:
      Dropped: with the reason why these are no pair.
    """
    sides = {"chosen": chosen, "rejected": rejected}
    whole = {name: _whole(prompt, side) for name, side in sides.items()}
    for name, dialogue in whole.items():
        if not dialogue or dialogue[-1]["role"] != "assistant":
            raise Dropped(DropReason.BAD_ROLES, f"{name} does not end with a turn of the assistant")
        if _is_blank(dialogue[-1]):
            raise Dropped(DropReason.EMPTY_ANSWER, f"{name} is empty or white space")
    shared = whole["chosen"][:-1]
    if shared != whole["rejected"][:-1]:
        raise Dropped(DropReason.NO_COMMON_PROMPT, "the dialogues differ before their last turn")
    if all(map(_is_blank, shared)):
        raise Dropped(DropReason.EMPTY_PROMPT, "no turn before the answer has a text")
    if shared[-1]["role"] == "assistant":
        raise Dropped(DropReason.BAD_ROLES, "the turn before the answer is the assistant's too")
    if shared[-1]["role"] in SYSTEM_ROLES:
        raise Dropped(DropReason.BAD_ROLES, "the turn before the answer is the system's")
    if isinstance(prompt, str) and prompt.strip() not in (_text(message).strip() for message in shared):
        raise Dropped(DropReason.NO_COMMON_PROMPT, "the prompt is no turn of the dialogues")
    if whole["chosen"][-1] == whole["rejected"][-1]:
        raise Dropped(DropReason.IDENTICAL_ANSWERS, "chosen equals rejected")
    return chat_pair(shared, whole["chosen"][-1:], whole["rejected"][-1:], variables)


def read_variables(row: Row) -> dict[str, Any]:
    """Reads what a row gives to the template beside its messages.

    Raises:
      Dropped: it is not of the kind that templates take.
    """
    variables: dict[str, Any] = {}
    if row.has("chat_template_kwargs"):
        variables = row.value("chat_template_kwargs")
        if not isinstance(variables, dict):
            raise Dropped(DropReason.WRONG_TYPE, f"chat_template_kwargs is {kind_of(variables)}, not an object")
    if row.has("tools"):
        tools = row.value("tools")
        try:
            tools = json.loads(tools) if isinstance(tools, str) and tools.strip() else tools
        except ValueError as error:
            raise Dropped(DropReason.WRONG_TYPE, f"tools: broken JSON ({error})") from None
        if tools:
            variables = variables | {"tools": tools}
    return variables


def as_answer(side: list[Message] | str) -> list[Message]:
    """Returns a side as messages: a text is the assistant's."""
    return [{"role": "assistant", "content": side}] if isinstance(side, str) else side


def _read_prompt(row: Row, read: Callable[[Any], Message]) -> list[Message] | str | None:
    if "prompt" not in row.names and not any(name in row.values for name in ("prompt", *_PROMPT_NAMES)):
        return None
    value = row.value("prompt", instead=_PROMPT_NAMES)
    return None if value is None else _read_side("the prompt", value, read)


def _read_side(name: str, value: Any, read: Callable[[Any], Message]) -> list[Message] | str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return [read(value)]
    if isinstance(value, list):
        return [read(message) for message in value]
    raise Dropped(DropReason.WRONG_TYPE, f"{name} is {kind_of(value)}, not a list of messages")


def _whole(prompt: list[Message] | str | None, side: list[Message]) -> list[Message]:
    if prompt is None or (isinstance(prompt, list) and prompt and side[: len(prompt)] == prompt):
        return side
    if isinstance(prompt, str):
        is_whole = len(side) > 1 and side[0]["role"] != "assistant"
        return side if is_whole else [{"role": "user", "content": prompt}, *side]
    return [*prompt, *side]


def read_content(content: Any) -> str:
    """Reads the text of a content, which may be a list of parts.

    Raises:
      Dropped: a part is not a text: an image, a sound, a video.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Dropped(DropReason.WRONG_TYPE, f"the content of a message is {kind_of(content)}, not a string")
    texts = []
    for part in content:
        if isinstance(part, dict) and part.get("type", "text") == "text":
            part = part["text"] if part.get("text") is not None else part.get("value")
        if isinstance(part, str):
            texts.append(part)
            continue
        name = part.get("type") if isinstance(part, dict) else kind_of(part)
        raise Dropped(DropReason.UNSUPPORTED_CONTENT, f"a message holds a part {name!r}; only text parts are read")
    return "".join(texts)


def _text(message: Message) -> str:
    return message["content"] or ""


def _is_blank(message: Message) -> bool:
    return not _text(message).strip() and not message.get("tool_calls")


def shape_of(value: Any) -> str:
    """Names the kind of a value for a message; of an object, its keys."""
    return f"an object of {', '.join(map(str, value))}" if isinstance(value, dict) else kind_of(value)
