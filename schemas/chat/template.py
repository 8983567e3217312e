"""Chat templates: messages -> text, exactly as transformers renders them, in Jinja's immutable sandbox.

Importing this module does not need Jinja: it is imported when a template is first rendered.
"""

import datetime
import hashlib
import json
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from oddsmill.schemas.chat.metering import TooCostly
from oddsmill.schemas.chat.outline import Outline, Outlines
from oddsmill.schemas.chat.special_tokens import TOKENIZER_CONFIG
from oddsmill.schemas.chat.tools import arguments_of, with_argument_texts
from oddsmill.schemas.errors import Refused, one_line
from oddsmill.schemas.files import check_own
from oddsmill.schemas.typed_json import Malformed, as_type

if TYPE_CHECKING:
    import jinja2

Message = dict[str, Any]
TEMPLATE_FILE, TEMPLATE_FOLDER = "chat_template.jinja", "additional_chat_templates"
REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
_REASONING = frozenset(REASONING_FIELDS)
_OPEN_END = "CONTINUE_FINAL_MESSAGE_TAG "


class TemplateFailed(Refused):
    """The template raised on these messages, or left out what it must write; the message says what."""


class ChatTemplate:
    """One or several named templates of a tokenizer.

    Attributes:
      sha256: the digest of the templates' text.
      uses_date: true where a rendering may hold the date of the day.
    """

    def __init__(self, templates: str | Mapping[str, str], special_tokens: Mapping[str, str]):
        """Takes the templates as they are; they are compiled when they are first needed.

        Args:
          templates: one, or several by name (`default`, `tool_use`).
          special_tokens: what the templates see as `bos_token`, `eos_token`, ….
        """
        self._templates = {"default": templates} if isinstance(templates, str) else dict(templates)
        self._special_tokens = dict(special_tokens)
        self._compiled: dict[str, jinja2.Template] = {}
        self._tracing: dict[str, jinja2.Template] = {}
        self._outlines = Outlines()
        text = templates if isinstance(templates, str) else json.dumps(dict(templates), sort_keys=True)
        self.sha256 = hashlib.sha256(text.encode()).hexdigest()
        self._words = frozenset(re.findall(r"\w+", " ".join(self._templates.values())))
        self.uses_date = self.mentions("strftime_now")

    def mentions(self, name: str) -> bool:
        """Says whether a template may read a variable: one whose text does not hold the name cannot."""
        return name in self._words

    def render(
        self,
        messages: list[Message],
        *,
        generation_prompt: bool = False,
        date: str | None = None,
        variables: Mapping[str, Any] | None = None,
        as_given: bool = False,
    ) -> str:
        """Renders a dialogue.

        Templates differ in the forms that they can write. What one cannot write it gets in another form: the arguments
        of calls as JSON text and not as objects, bare functions in the wrapper of a tool, the null content of a call
        as an empty text, a turn of the developer as the system's.

        Args:
          generation_prompt: the template is to open the assistant's next turn.
          date: the day that `strftime_now` tells, YYYY-MM-DD.
          variables: what else the template sees; `tools` selects the template `tool_use`, if there is one.
          as_given: the template gets the messages and tools in their own forms alone, as in transformers.

        Raises:
          TemplateFailed: the template raises.
          Refused: it does not compile, or needs a date and there is none.
        """
        if not as_given and not self._takes_developers(messages):
            messages = [m | {"role": "system"} if m.get("role") == "developer" else m for m in messages]
        plain = _read_plain(messages)
        options: dict[str, Any] = {"generation_prompt": generation_prompt, "date": date, "variables": variables}
        options["as_given"] = as_given
        if plain and (outline := self.outline(*plain, **options)):
            return outline.fill(plain.contents)
        seen: dict[str, Any] = {"tools": None, "documents": None, "strftime_now": _clock(date)}
        seen |= self._special_tokens | dict(variables or {})

        def write(messages: list[Message], **other: Any) -> str:
            return self._write(messages, generation_prompt, seen | other)

        text = write(messages) if as_given else _write_in_some_form(messages, seen["tools"], write)
        if plain:
            trace = partial(self._trace, plain, generation_prompt, seen)
            self._outlines.learn(_shape(plain.roles, **options), plain.contents, text, trace)
        return text

    def outline(self, roles: tuple[str, ...], contents: Sequence[str], **options: Any) -> Outline | None:
        """Returns an outline of what `render` makes of a dialogue of texts; None where that is not known before.

        Args:
          options: those of `render`.
        """
        return self._outlines.find(_shape(roles, **options), contents)

    def _write(self, messages: list[Message], generation_prompt: bool, variables: Mapping[str, Any]) -> str:
        """Renders a dialogue as it is.

        Raises:
          TemplateFailed, Refused: as `render`.
        """
        template = self._select(with_tools=variables["tools"] is not None)
        messages = [_with_reasoning(message) for message in messages]
        try:
            return template.render(messages=messages, add_generation_prompt=generation_prompt, **variables)
        except Refused:
            raise
        except TooCostly as error:
            raise TemplateFailed(f"the chat template would cost too much: {error}") from error
        except Exception as error:  # a template is a program of its author's, and may raise anything
            raise TemplateFailed(one_line(error)) from error

    def _trace(
        self, dialogue: "_PlainDialogue", generation_prompt: bool, variables: Mapping[str, Any]
    ) -> Outline | None:
        from oddsmill.schemas.chat.tracing import compile_tracing, trace

        name = self._name(with_tools=variables["tools"] is not None)
        if name not in self._tracing:
            self._tracing[name] = compile_tracing(self._templates[name])
        return trace(self._tracing[name], *dialogue, {"add_generation_prompt": generation_prompt, **variables})

    def render_open(self, messages: list[Message], **options: Any) -> str:
        """Renders a dialogue up to the end of its last message's content (transformers' `continue_final_message`).

        Raises:
          TemplateFailed: as `render`, or the content does not stand in the text.
        """
        last = messages[-1].get("content")
        if not isinstance(last, str):
            raise TemplateFailed("the last message has no text to continue")
        text = self.render([*messages[:-1], messages[-1] | {"content": last + _OPEN_END}], **options)
        if last.strip() not in text or _OPEN_END.strip() not in text:
            raise TemplateFailed("the last message's content is not in the rendered text")
        at = text.rindex(_OPEN_END.strip())
        if text[at : at + len(_OPEN_END)] == _OPEN_END:
            return text[:at]
        return text[:at].rstrip()  # the template trims the content

    def _takes_developers(self, messages: list[Message]) -> bool:
        """Says whether the messages hold no turn of the developer that the template leaves out."""
        return all(message.get("role") != "developer" for message in messages) or self._writes_developer

    @cached_property
    def _writes_developer(self) -> bool:
        """True where the template writes a turn of the developer."""
        turns = [{"role": "developer", "content": "a wish"}, {"role": "user", "content": "q"}]
        with suppress(TemplateFailed):
            return "a wish" in self.render(turns, date="2000-01-01", as_given=True)
        return False

    def _name(self, *, with_tools: bool) -> str:
        return "tool_use" if with_tools and "tool_use" in self._templates else "default"

    def _select(self, *, with_tools: bool) -> "jinja2.Template":
        name = self._name(with_tools=with_tools)
        if name not in self._templates:
            names = ", ".join(sorted(self._templates))
            raise Refused(
                f"the tokenizer has several chat templates ({names}) and no default; name one by --chat_template"
            )
        if name not in self._compiled:
            from oddsmill.schemas.chat.sandbox import compile_template

            self._compiled[name] = compile_template(self._templates[name])
        return self._compiled[name]


class _PlainDialogue(NamedTuple):
    """A dialogue whose messages have a role and a text alone."""

    roles: tuple[str, ...]
    contents: list[str]


def _shape(
    roles: tuple[str, ...],
    generation_prompt: bool = False,
    date: str | None = None,
    variables: Mapping[str, Any] | None = None,
    as_given: bool = False,
) -> Hashable:
    """Returns all that a rendering depends on beside the contents."""
    return roles, generation_prompt, date, repr(variables) if variables else None, as_given


def _read_plain(messages: list[Message]) -> _PlainDialogue | None:
    """Returns a dialogue as roles and contents; None where its messages hold anything else, or in another order."""
    if {*map(tuple, messages)} != {("role", "content")}:
        return None
    roles, contents = tuple([m["role"] for m in messages]), [m["content"] for m in messages]
    return _PlainDialogue(roles, contents) if {*map(type, roles), *map(type, contents)} == {str} else None


@dataclass(frozen=True)
class _NamedTemplate:
    """An entry of the list that tokenizer_config.json may hold."""

    name: str
    template: str


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{path}: cannot be read as UTF-8 ({one_line(error)})") from error


def read_templates(folder: Path, config: Mapping[str, Any]) -> str | dict[str, str] | None:
    """Reads the templates of a tokenizer's folder: `chat_template.jinja` and the files beside it, or its settings.

    Args:
      config: the content of tokenizer_config.json.

    Raises:
      Refused: a template is no text, its file is not UTF-8, or a link that leads out of the folder; or its name is
        none of a file.
    """
    try:
        own = as_type(str | dict[str, str] | list[_NamedTemplate] | None, config.get("chat_template"), "chat_template")
    except Malformed as problem:
        raise Refused(f"{folder / TOKENIZER_CONFIG}: {problem}") from problem
    if isinstance(own, list):
        own = {template.name: template.template for template in own}
    for name in own if isinstance(own, dict) else ():  # a copy of the tokenizer has a file of this name
        if name in ("", ".", "..") or not name.isprintable() or "/" in name:
            raise Refused(f"{folder / TOKENIZER_CONFIG}: {name!r} is no name for a chat template")
    path, files = folder / TEMPLATE_FILE, sorted((folder / TEMPLATE_FOLDER).glob("*.jinja"))
    for file in [path, *files]:
        check_own(file, folder)  # any text is a template
    if path.is_file():
        own = _read_template(path)
    more = {file.stem: _read_template(file) for file in files}
    if more:
        return (own if isinstance(own, dict) else {"default": own} if own else {}) | more
    return own


def given_template(setting: str, templates: str | Mapping[str, str] | None) -> str:
    """Returns the template that `--chat_template` means: a file, the name of one of the tokenizer's, or its own text.

    Raises:
      Refused: it is none of these.
    """
    if "{" in setting:
        return setting
    if isinstance(templates, Mapping) and setting in templates:
        return templates[setting]
    try:
        return Path(setting).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        names = (
            f", nor one of the tokenizer's templates ({', '.join(sorted(templates))})"
            if isinstance(templates, Mapping)
            else ""
        )
        raise Refused(f"--chat_template={setting}: not a file that can be read ({one_line(error)}){names}") from error


def _clock(date: str | None) -> Callable[[str], str]:
    def strftime_now(form: str) -> str:
        if date is None:
            raise Refused(
                "the chat template writes the date of the day, and a dataset must not depend on when it was made; "
                f"give --chat_date, for instance --chat_date={datetime.date.today()}"
            )
        return datetime.datetime.fromisoformat(date).strftime(form)

    return strftime_now


def _write_in_some_form(messages: list[Message], tools: list[dict[str, Any]] | None, write: Callable[..., str]) -> str:
    """Writes a dialogue in the first form of its calls and tools that the template can write.

    Raises:
      TemplateFailed: it can write none; the message is that of the first.
    """
    has_calls = any("tool_calls" in message for message in messages)
    try:
        return _write_calls(messages, write) if has_calls else write(messages)
    except TemplateFailed:
        wrapped = [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools or []]
        if not tools or wrapped == tools:
            raise
        return _write_calls(messages, partial(write, tools=wrapped))


def _write_calls(messages: list[Message], write: Callable[[list[Message]], str]) -> str:
    """Writes a dialogue with calls of tools in the first form that the template can write.

    Raises:
      TemplateFailed: it can write none; the message is that of the first.
    """
    calls = [call for message in messages for call in message.get("tool_calls") or []]
    objects = [arguments for call in calls if isinstance(arguments := arguments_of(call), dict)]
    text, failure = _try(write, messages)
    if text is None or any(arguments and str(arguments) in text for arguments in objects):
        with_texts = [with_argument_texts(message) for message in messages]
        other, _ = _try(write, with_texts)
        if other is not None:
            text, messages = other, with_texts
    with_contents = [m | {"content": ""} if m.get("content") is None else m for m in messages]
    if with_contents != messages and (text is None or "None" in text):
        other, _ = _try(write, with_contents)
        if other is not None and (text is None or other.count("None") < text.count("None")):
            text = other
    if text is None:
        assert failure is not None
        raise failure
    return text


def _try(write: Callable[[list[Message]], str], messages: list[Message]) -> tuple[str | None, TemplateFailed | None]:
    try:
        return write(messages), None
    except TemplateFailed as failure:
        return None, failure


def _with_reasoning(message: Message) -> Message:
    """Gives the reasoning of a turn all the names that templates read."""
    if _REASONING.isdisjoint(message):
        return message
    reasoning = next((message[name] for name in REASONING_FIELDS if message.get(name) is not None), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}
