"""The columns that are part of a prompt wherever its format has it, found in a row and added to its pairs."""

from collections.abc import Iterator, Sequence
from typing import Any

from oddsmill.pipeline.formats.dialogues import as_answer, as_prompt, read_row_variables, split_dialogues
from oddsmill.pipeline.formats.pairs import Pair, PreferencePair, chat_pair
from oddsmill.pipeline.formats.rows import Row, check_encodable
from oddsmill.schemas.chat import context as chat_context
from oddsmill.schemas.chat.context import HISTORY_COLUMNS, MEDIA_COLUMNS, SYSTEM_COLUMNS, Context
from oddsmill.schemas.chat.messages import MessageForms
from oddsmill.schemas.chat.transcript import read_transcript
from oddsmill.schemas.drops import Dropped, DropReason

CONTEXT_FIELDS = frozenset(("system", "history", "images"))
_COLUMNS = frozenset((*SYSTEM_COLUMNS, *HISTORY_COLUMNS, *MEDIA_COLUMNS))


def read_context(row: Row, forms: MessageForms) -> Context | None:
    """Reads the columns of a row that are part of its prompt; None where there are none, or they are empty.

    Raises:
      Dropped: one holds what it cannot hold, or there is an image, a video or a sound.
    """
    if _COLUMNS.isdisjoint(row.values) and CONTEXT_FIELDS.isdisjoint(row.names):
        return None
    media = _columns(row, "images", MEDIA_COLUMNS)
    systems, histories = _columns(row, "system", SYSTEM_COLUMNS), _columns(row, "history", HISTORY_COLUMNS)
    return chat_context.read_context(systems, histories, media, forms)


def columns_before(row: Row) -> list[str]:
    """Returns the columns of a row that hold something which stands before its prompt."""
    if _COLUMNS.isdisjoint(row.values) and CONTEXT_FIELDS.isdisjoint(row.names):
        return []
    known = {"system": SYSTEM_COLUMNS, "history": HISTORY_COLUMNS}
    return [name for field in known for name, value in _columns(row, field, known[field]) if value]


def add_context(pair: Pair, context: Context) -> Pair:
    """Adds what stands before the prompt: turns to a dialogue, paragraphs to a text.

    Raises:
      Dropped: the dialogue has a system turn already, and another.
    """
    if isinstance(pair, PreferencePair):
        prompt = chat_context.text_with_context(pair.prompt, context)
        return pair._replace(prompt=check_encodable("system", prompt))
    turns, chosen, rejected = pair.messages()
    turns = chat_context.turns_with_context(turns, context)
    return chat_pair(turns, chosen, rejected, pair.row_variables())


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
        prompt = chat_context.turns_with_context(prompt, context)
    return split_dialogues(prompt, as_answer(answers[0]), as_answer(answers[1]), read_row_variables(row))


def _columns(row: Row, field: str, known: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yields the columns that hold a field, with their values: those that are named for it, else those that are known.

    A column that is named for another field is not one of them, and `[]` names none.
    """
    names = row.names.get(field)
    if names is None:
        names = list(row.free(known))
    for name in [names] if isinstance(names, str) else names:
        yield name, row.column(name)
