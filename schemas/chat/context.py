"""The columns that are part of a prompt beside it: the system's text and the turns before.

Columns of images, videos and sounds drop a row that fills them: a prompt without them would not be the row's.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from oddsmill.schemas.chat.messages import (
    KNOWN,
    SYSTEM_ROLES,
    MessageForms,
    are_same_turns,
    decode_messages,
    read_message,
)
from oddsmill.schemas.chat.template import Message
from oddsmill.schemas.chat.tools import kind_of
from oddsmill.schemas.drops import Dropped, DropReason

SYSTEM_COLUMNS, HISTORY_COLUMNS = ("system", "system_prompt"), ("history",)
MEDIA_COLUMNS = ("images", "image", "videos", "video", "audios", "audio")
Columns = Iterable[tuple[str, Any]]

_LONG = 40  # characters; "Translate" may stand in a prompt and be no system's text


class Context(NamedTuple):
    """The system's text and the turns before a prompt, as a row has them in columns of their own."""

    system: str
    history: list[Message]


def read_context(systems: Columns, histories: Columns, media: Columns, forms: MessageForms = KNOWN) -> Context | None:
    """Reads the columns of a row that are part of its prompt, each with its name; None where they are empty.

    Raises:
      Dropped: one holds what it cannot hold, or there is an image, a video or a sound.
    """
    for name, value in media:
        if not _is_empty(value):
            problem = f"{name!r} is not empty, and only texts are read{_leave_out('images', forms)}"
            raise Dropped(DropReason.UNSUPPORTED_CONTENT, problem)
    texts = [_read_system(name, value, forms) for name, value in systems]
    system = next((text for text in texts if text.strip()), "")
    history = [turn for name, value in histories for turn in _read_history(name, value, forms)]
    return Context(system, history) if system or history else None


def text_with_context(prompt: str, context: Context) -> str:
    """Returns a prompt of text with the context's texts before it, a paragraph each."""
    said = [context.system] * (not _holds(prompt, context.system.strip()))
    said += [turn["content"] or "" for turn in context.history]
    before = "\n\n".join(text for text in said if text.strip())
    return before + ("" if not before or prompt.startswith("\n\n") else "\n\n") + prompt


def _holds(prompt: str, system: str) -> bool:
    """Says whether a prompt has the system's text in it already: a line of its own, or a text too long for chance."""
    return system in prompt and (len(system) >= _LONG or system in map(str.strip, prompt.splitlines()))


def turns_with_context(prompt: list[Message], context: Context, forms: MessageForms = KNOWN) -> list[Message]:
    """Returns a dialogue with the context's turns: the system's first, those before the prompt after it.

    What the dialogue begins with already stands once.

    Raises:
      Dropped: the dialogue has a system turn already, and another.
    """
    systems = [{"role": "system", "content": context.system}] if context.system else []
    if systems and prompt and prompt[0]["role"] in SYSTEM_ROLES:
        if (prompt[0]["content"] or "").strip() != context.system.strip():
            problem = "the dialogue begins with a system turn, and the row's own column holds another"
            raise Dropped(DropReason.BAD_ROLES, problem + _leave_out("system", forms))
        systems = []
    begin = next((place for place, turn in enumerate(prompt) if turn["role"] not in SYSTEM_ROLES), len(prompt))
    end = begin + len(context.history)
    history = [] if are_same_turns(prompt[begin:end], context.history) else context.history
    return [*systems, *prompt[:begin], *history, *prompt[begin:]]


def _leave_out(field: str, forms: MessageForms) -> str:
    """Returns the setting that leaves a column out, for a message; nothing where there is no such setting."""
    return f"; --{forms.option}fields.{field}=[] leaves the column out" if forms.option else ""


def _is_empty(value: Any) -> bool:
    """Tells whether a column of media holds none: null, false, an empty list, a list of these, or the text of one."""
    if isinstance(value, str):
        return value.strip().lower() in ("", "[]", "null", "{}", "false")
    if isinstance(value, list):
        return all(map(_is_empty, value))
    return value is None or value is False or value == {}


def _read_system(name: str, value: Any, forms: MessageForms) -> str:
    if isinstance(value, str):
        value = decode_messages(name, value, forms) or value
    if isinstance(value, dict | list):  # a message of the system, or the list of it
        value = "\n\n".join(
            read_message(turn, forms)["content"] or "" for turn in (value if isinstance(value, list) else [value])
        )
    if value is not None and not isinstance(value, str):
        raise Dropped(DropReason.WRONG_TYPE, f"{name!r} is {kind_of(value)}, not a text of the system")
    return value or ""


def _read_history(name: str, value: Any, forms: MessageForms) -> list[Message]:
    """Reads the turns before a prompt: pairs of a text and its answer, or messages; or the JSON text of these."""
    if isinstance(value, str) and value.strip()[:1] == "[":
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    turns: list[Message] = []
    for member in value if isinstance(value, list) else [value]:
        if isinstance(member, dict):
            turns.append(read_message(member, forms))
        elif isinstance(member, list) and len(member) == 2 and all(isinstance(text, str) for text in member):
            turns += [{"role": "user", "content": member[0]}, {"role": "assistant", "content": member[1]}]
        else:
            problem = f"{name!r} holds {kind_of(member)}, not pairs of a text and its answer, nor messages"
            raise Dropped(DropReason.WRONG_TYPE, problem + _leave_out("history", forms))
    return turns
