"""The columns that are part of a prompt wherever its format has it: the system's text and the turns before.

Columns of images, videos and sounds drop a row that fills them: a prompt without them would not be the row's.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from oddsmill.pipeline.formats.dialogues import as_answer, as_prompt, read_row_variables, split_dialogues
from oddsmill.pipeline.formats.pairs import Message, Pair, PreferencePair, chat_pair
from oddsmill.pipeline.formats.rows import Row, check_encodable, kind_of
from oddsmill.pipeline.formats.transcript import read_transcript
from oddsmill.schemas.chat.messages import SYSTEM_ROLES, MessageForms, read_message
from oddsmill.schemas.drops import Dropped, DropReason

SYSTEM_COLUMNS = ("system", "system_prompt")
MEDIA_COLUMNS = ("images", "image", "videos", "video", "audios", "audio")
CONTEXT_FIELDS = frozenset(("system", "history", "images"))
_COLUMNS = frozenset((*SYSTEM_COLUMNS, "history", *MEDIA_COLUMNS))


class Context(NamedTuple):
    """The system's text and the turns before a prompt, as a row has them in columns of their own."""

    system: str
    history: list[Message]


def read_context(row: Row, forms: MessageForms) -> Context | None:
    """Reads the columns of a row that are part of its prompt; None where there are none, or they are empty.

    Raises:
      Dropped: one holds what it cannot hold, or there is an image, a video or a sound.
    """
    if _COLUMNS.isdisjoint(row.values) and CONTEXT_FIELDS.isdisjoint(row.names):
        return None
    for name, value in _columns(row, "images", MEDIA_COLUMNS):
        if not _is_empty(value):
            raise Dropped(
                DropReason.UNSUPPORTED_CONTENT,
                f"{name!r} is not empty, and only texts are read; --source.fields.images=[] reads the rows without",
            )
    systems = [_read_system(name, value, forms) for name, value in _columns(row, "system", SYSTEM_COLUMNS)]
    system = next((text for text in systems if text.strip()), "")
    history = [
        turn for name, value in _columns(row, "history", ("history",)) for turn in _read_history(name, value, forms)
    ]
    return Context(system, history) if system or history else None


def add_context(pair: Pair, context: Context) -> Pair:
    """Adds what stands before the prompt: turns to a dialogue, paragraphs to a text.

    Raises:
      Dropped: the dialogue has a system turn already, and another.
    """
    if isinstance(pair, PreferencePair):
        said = [context.system] * (context.system.strip() not in pair.prompt)
        said += [turn["content"] or "" for turn in context.history]
        before = "\n\n".join(text for text in said if text.strip())
        gap = "" if not before or pair.prompt.startswith("\n\n") else "\n\n"
        return pair._replace(prompt=before + gap + pair.prompt)
    prompt, chosen, rejected = pair.messages()
    return chat_pair(_with_turns_before(prompt, context), chosen, rejected, json.loads(pair.variables))


def as_chat(pair: Pair, context: Context | None, row: Row) -> Pair:
    """Makes a dialogue of texts: the prompt is the user's turn, or the turns of a transcript; the answers follow it.

    Raises:
      Dropped: the turns of a transcript lead to no answer.
    """
    if not isinstance(pair, PreferencePair):
        return pair if context is None else add_context(pair, context)
    turns = read_transcript(pair.prompt)
    if turns and turns[-1]["role"] == "assistant":
        raise Dropped(DropReason.BAD_ROLES, "the turn before the answer is the assistant's too")
    answers = [pair.chosen, pair.rejected] if turns is None else [pair.chosen.strip(), pair.rejected.strip()]
    prompt = as_prompt(pair.prompt) if turns is None else turns
    if context is not None:
        prompt = _with_turns_before(prompt, context)
    return split_dialogues(prompt, as_answer(answers[0]), as_answer(answers[1]), read_row_variables(row))


def _with_turns_before(prompt: list[Message], context: Context) -> list[Message]:
    systems = [{"role": "system", "content": context.system}] if context.system else []
    if systems and prompt and prompt[0]["role"] in SYSTEM_ROLES:
        if (prompt[0]["content"] or "").strip() != context.system.strip():
            raise Dropped(
                DropReason.BAD_ROLES,
                "the dialogue begins with a system turn, and the row's own column holds another; "
                "--source.fields.system=[] leaves the column out",
            )
        systems = []
    at = next((place for place, turn in enumerate(prompt) if turn["role"] not in SYSTEM_ROLES), len(prompt))
    return [*systems, *prompt[:at], *context.history, *prompt[at:]]


def _columns(row: Row, field: str, known: Sequence[str]) -> list[tuple[str, Any]]:
    """Returns the columns that hold a field, with their values: those that are named for it, else those that are known.

    A column that is named for another field is not one of them, and `[]` names none.
    """
    names = row.names.get(field)
    if names is None:
        return [(name, row.column(name)) for name in row.free(known)]
    return [(name, row.column(name)) for name in ([names] if isinstance(names, str) else names)]


def _is_empty(value: Any) -> bool:
    """Tells whether a column of media holds none: null, an empty list, a list of nulls, or the text of one of these."""
    if isinstance(value, str):
        return value.strip() in ("", "[]", "null", "{}")
    if isinstance(value, list):
        return all(map(_is_empty, value))
    return value is None or value == {}


def _read_system(name: str, value: Any, forms: MessageForms) -> str:
    if isinstance(value, dict | list):  # a message of the system, or the list of it
        value = "\n\n".join(
            read_message(turn, forms)["content"] or "" for turn in (value if isinstance(value, list) else [value])
        )
    if value is not None and not isinstance(value, str):
        raise Dropped(DropReason.WRONG_TYPE, f"{name!r} is {kind_of(value)}, not a text of the system")
    return check_encodable(name, value or "")


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
            user, assistant = (check_encodable(name, text) for text in member)
            turns += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
        else:
            raise Dropped(
                DropReason.WRONG_TYPE,
                f"{name!r} holds {kind_of(member)}, not pairs of a text and its answer, nor messages; "
                "--source.fields.history=[] leaves it out",
            )
    return turns
