"""Prompts of a JSONL file, the token ids that a model reads of each, and the texts of its answers."""

import datetime
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from oddsmill.schemas.chat.context import (
    HISTORY_COLUMNS,
    MEDIA_COLUMNS,
    SYSTEM_COLUMNS,
    Context,
    read_context,
    text_with_context,
    turns_with_context,
)
from oddsmill.schemas.chat.messages import MessageForms, read_turns
from oddsmill.schemas.chat.template import Message, TemplateFailed
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.chat.tools import read_variables
from oddsmill.schemas.chat.transcript import read_transcript
from oddsmill.schemas.drops import Dropped
from oddsmill.schemas.errors import Refused, one_line
from oddsmill.train.config.generate import Chat

_FORMS = MessageForms(option="")  # the settings of generation have no prefix
_NAMES = ("prompt", "messages", "conversations")


class Prompt(NamedTuple):
    """A prompt as it was given.

    Attributes:
      origin: the place where it stands, `file:row`, rows counted from 0.
      content: a text, or the messages of a dialogue.
      variables: further variables for the chat template (`tools`, …).
      context: what stands before a text in columns of its own; messages hold it already.
    """

    origin: str
    content: str | list[Message]
    variables: Mapping[str, Any] = {}
    context: Context | None = None


class Encoded(NamedTuple):
    """A prompt as the model reads it: its text, and its ids."""

    text: str
    ids: list[int]


def read_prompts(path: str | Path, forms: MessageForms = _FORMS) -> Iterator[Prompt]:
    """Reads prompts from a JSONL file: {"prompt": "text"}, {"prompt": [messages]} or {"messages": [messages]} a row.

    Messages, and the `tools` and `chat_template_kwargs` that rows may hold for the template, have all forms that the
    pipeline reads. Other fields are ignored, and lines of white space alone are passed over.

    Args:
      forms: the names that the rows have for roles and for the keys of messages.

    Raises:
      Refused: there is no such file, or a row is none of these; the message names it.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise Refused(f"--prompts={path}: cannot be read ({error.strerror})") from error
    for number, line in enumerate(lines):
        origin = f"{path}:{number}"
        if line.strip():
            yield read_prompt(_read_row(line, origin), origin, forms)


def read_prompt(row: Mapping[str, Any], origin: str, forms: MessageForms = _FORMS) -> Prompt:
    """Reads the prompt of a row, as the pipeline reads it of the same row.

    Raises:
      Refused: it has none, several, or one that cannot be read; the message names its origin.
    """
    given = [name for name in _NAMES if row.get(name) is not None]
    if len(given) != 1:
        found = "several" if given else f"none of them, only {', '.join(row) or 'nothing'}"
        raise Refused(f'{origin}: a row holds "prompt", "messages" or "conversations"; this one holds {found}')
    try:
        content = read_turns(given[0], row[given[0]], forms)
        variables = read_variables(row.get("chat_template_kwargs"), row.get("tools"))
        systems, histories, media = (
            [(name, row[name]) for name in names if name in row]
            for names in (SYSTEM_COLUMNS, HISTORY_COLUMNS, MEDIA_COLUMNS)
        )
        context = read_context(systems, histories, media, forms)
        if context is not None and isinstance(content, list):
            content = turns_with_context(content, context, forms)
    except Dropped as dropped:
        raise Refused(f"{origin}: {dropped.detail}") from None
    if isinstance(content, str) and given != ["prompt"]:
        raise Refused(f"{origin}: {given[0]} is str, not a list of messages")
    if not content and not isinstance(content, str):
        raise Refused(f"{origin}: there is no message")
    if isinstance(content, list) and content[-1]["role"] == "assistant" and given != ["prompt"]:
        raise Refused(
            f"{origin}: the last message is the assistant's; leave out the answer that is to be generated, "
            'or name the messages "prompt": the answer then goes on from the end of that turn'
        )
    try:
        json.dumps([content, variables, context], ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise Refused(f"{origin}: the text holds a lone surrogate, which is no character") from error
    return Prompt(origin, content, variables, context if isinstance(content, str) else None)


def encode_prompts(
    prompts: Iterable[Prompt],
    tokenizer: Tokenizer,
    *,
    chat: Chat,
    date: str | None,
    variables: Mapping[str, Any],
    vocab_size: int,
    bos_in_chat: bool = False,
) -> list[Encoded]:
    """The ids of each prompt, with BOS where the rows have it; the chat template renders messages up to the answer.

    Args:
      chat: `auto` renders messages and takes texts as they stand; true takes a text as the message of a user; false
        refuses messages.
      date: the day that the template's clock tells, YYYY-MM-DD; None: today.
      variables: variables of the template beside the messages; a row's own take precedence.
      vocab_size: the model's.
      bos_in_chat: BOS begins a dialogue also where the template does not write it, as in rows of `compat: trl`.

    Raises:
      Refused: there is no template, it fails on a row, or a row has no token or one that the model does not know.
    """
    encoded = []
    for prompt in prompts:
        content = prompt.content
        if chat is True and isinstance(content, str):
            content = _as_turns(prompt, content)
        elif prompt.context is not None and isinstance(content, str):
            content = text_with_context(content, prompt.context)
        text = content if isinstance(content, str) else _render(prompt, content, tokenizer, chat, date, variables)
        ids = tokenizer.encode(text)
        if isinstance(content, str):
            ids = tokenizer.with_bos(ids)
        elif bos_in_chat and ids[:1] != [tokenizer.bos_id] and tokenizer.bos_id is not None:
            ids = [tokenizer.bos_id, *ids]
        if not ids:
            raise Refused(f"{prompt.origin}: the prompt has no token")
        if max(ids) >= vocab_size:
            raise Refused(
                f"{prompt.origin}: token {max(ids)} is not in the model's vocabulary of {vocab_size}: the tokenizer "
                "beside the weights is that of another model"
            )
        encoded.append(Encoded(text, ids))
    return encoded


def answer_text(tokenizer: Tokenizer, prompt: Sequence[int], answer: Sequence[int]) -> str:
    """The text of an answer as it continues its prompt: decoded alone, some tokenizers would drop its leading space."""
    start, whole = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt, [*prompt, *answer]))
    if whole.startswith(start):
        return whole[len(start) :]
    return tokenizer.decode(answer, skip_special_tokens=True)


def _as_turns(prompt: Prompt, text: str) -> list[Message]:
    """Makes turns of a text: it is the user's, or a transcript."""
    turns = read_transcript(text) or [{"role": "user", "content": text}]
    if turns[-1]["role"] == "assistant":
        raise Refused(f"{prompt.origin}: the last turn of the transcript is the assistant's; leave out its answer")
    return turns if prompt.context is None else turns_with_context(turns, prompt.context)


def _render(
    prompt: Prompt,
    messages: list[Message],
    tokenizer: Tokenizer,
    chat: Chat,
    date: str | None,
    variables: Mapping[str, Any],
) -> str:
    if chat is False:
        raise Refused(f"{prompt.origin}: the row holds messages; --chat=false takes texts alone")
    if tokenizer.chat_template is None:
        raise Refused(
            f"{prompt.origin}: messages, and the tokenizer has no chat template to render them; "
            "give one by --chat_template=FILE.jinja, or texts"
        )
    variables = {**variables, **prompt.variables}
    date = date or datetime.date.today().isoformat()
    try:
        if messages[-1]["role"] == "assistant":  # the turn is open, and the answer continues it
            return tokenizer.chat_template.render_open(messages, date=date, variables=variables)
        return tokenizer.chat_template.render(messages, generation_prompt=True, date=date, variables=variables)
    except TemplateFailed as failure:
        raise Refused(f"{prompt.origin}: the chat template fails on these messages: {failure}") from failure


def _read_row(line: bytes, origin: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Refused(f"{origin}: not a row of JSON ({one_line(error)})") from error
    if not isinstance(row, dict):
        raise Refused(f"{origin}: {type(row).__name__}, a JSON object is needed")
    return row
