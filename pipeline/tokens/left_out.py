"""Finding the texts of a row's messages that the chat template leaves out: no text is lost without a word.

A text counts as written where it stands in the rendering, but for white space and for the escapes of JSON, Python and
HTML. Two equal texts must stand there twice, and a text must stand outside of the longer ones.
"""

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

from oddsmill.pipeline.formats.pairs import Message, Notes, PreferencePair
from oddsmill.schemas.chat.messages import SYSTEM_ROLES
from oddsmill.schemas.chat.outline import Outline, Slot
from oddsmill.schemas.chat.template import REASONING_FIELDS

# The names of the texts in messages. Of equal texts of which one is missing, the last in this order is.
KINDS = {
    Notes.ANSWERS_NOT_RENDERED: "text of an answer",
    Notes.TURNS_NOT_RENDERED: "text of an earlier turn",
    Notes.TOOL_CALLS_NOT_RENDERED: "name or argument of a call",
    Notes.TOOLS_NOT_RENDERED: "tool",
    Notes.DOCUMENTS_NOT_RENDERED: "document",
    Notes.SYSTEM_NOT_RENDERED: "system turn",
    Notes.REASONING_NOT_RENDERED: "reasoning of an answer",
    Notes.PAST_REASONING_NOT_RENDERED: "reasoning of an earlier turn",
    Notes.NAMES_NOT_RENDERED: "name of a speaker",
}
_RANKS = {note: rank for rank, note in enumerate(KINDS)}
_MARKS_OF_REASONING = re.compile(r"(</?(?:\w+:)?(?:think|thinking|thought|reasoning)>|\[/?THINK\])", re.IGNORECASE)
_SIGNS = re.compile(r"</|\[/|/no_think|/think")
_SWITCHES = re.compile(r"/no_think|/think")  # a template may obey them and leave them out
_SHORT = 8  # a text of so few characters must not stand inside a word, such as `use` in <|user|>
_HEAD = 32
_SHOWN = 60
_INVISIBLE = re.compile(r"[\s\\]+")


class LeftOut(NamedTuple):
    """A text that the template does not write.

    Attributes:
      note: what it is, a key of `KINDS`.
    """

    note: Notes
    text: str

    def __str__(self) -> str:
        shown = self.text if len(self.text) <= _SHOWN else f"{self.text[:_SHOWN]}…"
        return f"{KINDS[self.note]} {shown!r}"


def find_left_out(
    prompt: Sequence[Message],
    chosen: Sequence[Message],
    rejected: Sequence[Message],
    variables: Mapping[str, Any],
    texts: PreferencePair,
) -> list[LeftOut]:
    """Finds what the rendering of a pair lacks of its messages, tools and documents; each text is named once.

    Args:
      variables: what else the template was given.
      texts: the rendering.
    """
    given = [*_tools(variables.get("tools")), *_documents(variables.get("documents"))]
    shared = [*given, *_parts(prompt, in_answer=False)]
    first, second = (list(_parts(side, in_answer=True)) for side in (chosen, rejected))
    whole, other = texts.prompt + texts.chosen, texts.prompt + texts.rejected
    lacking: list[LeftOut] = []
    if given or not _stand_in_order([*shared, *first], whole):
        lacking = [*_lacking([*shared, *first], whole), *_lacking([*shared, *second], other)]
    elif not _stand_in_order(second, texts.rejected):
        lacking = _lacking([*shared, *second], other)
    for message in (*prompt, *chosen, *rejected):
        if "name" in message and (name := str(message["name"])) and _find(name, whole) < 0 and _find(name, other) < 0:
            lacking.append(LeftOut(Notes.NAMES_NOT_RENDERED, name))
    return list(dict.fromkeys(lacking))


def writes_all(outline: Outline, before: Sequence[str], *answers: str) -> bool:
    """Says whether the renderings of a dialogue by an outline hold all contents, as `find_left_out` would find them.

    False means that they must be looked for.

    Args:
      before: the contents of the prompt.
      answers: the contents of one more message, each in a rendering of its own.
    """
    may_have_signs = [content for content in (*before, *answers) if "/" in content]
    return _has_all_in_order(outline, len(before) + 1) and not any(map(_SIGNS.search, may_have_signs))


@lru_cache(maxsize=4096)
def _has_all_in_order(outline: Outline, count: int) -> bool:
    """Says whether the places of `count` contents follow each other, each apart from letters of the template."""
    wanted, around = 0, ("", *outline.parts, "")
    for before, part, after in zip(around, around[1:], around[2:], strict=False):
        if isinstance(part, Slot) and part.message == wanted:
            is_whole = all(characters is None or characters.isspace() for _, characters in part.strips)
            if not (is_whole and isinstance(before, str) and isinstance(after, str)):
                return False
            wanted += not (_is_letter(before[-1:]) or _is_letter(after[:1]))
    return wanted == count


def _parts(messages: Sequence[Message], *, in_answer: bool) -> Iterator[LeftOut]:
    """Yields the texts of messages in the order in which most templates write them."""
    reasoning = Notes.REASONING_NOT_RENDERED if in_answer else Notes.PAST_REASONING_NOT_RENDERED
    for message in messages:
        note = Notes.ANSWERS_NOT_RENDERED if in_answer else Notes.TURNS_NOT_RENDERED
        if message.get("role") in SYSTEM_ROLES:
            note = Notes.SYSTEM_NOT_RENDERED
        thought = _thought(message) if len(message) > 2 else ""
        if thought:
            yield LeftOut(reasoning, thought)
        for content in _contents(message.get("content")):
            if "/" not in content:  # nor a mark that ends reasoning
                yield LeftOut(note, content)
                continue
            for is_reasoning, text in _split_reasoning(content):
                if text and not (is_reasoning and text == thought):
                    yield LeftOut(reasoning if is_reasoning else note, text)
        if len(message) > 2:
            calls = message.get("tool_calls")
            for call in calls if isinstance(calls, list) else ():
                yield from _call(call)


def _thought(message: Message) -> str:
    """Returns the reasoning that a message holds beside its content."""
    thought = next((message[key] for key in REASONING_FIELDS if message.get(key) is not None), "")
    return thought.strip() if isinstance(thought, str) else ""


def _contents(content: Any) -> Iterator[str]:
    """Yields the texts of a content, which TRL's rules leave as a list of parts, without white space around them."""
    parts = [content] if isinstance(content, str) else content if isinstance(content, list) else []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(text, str) and (text := text.strip()):
            yield text


def _split_reasoning(content: str) -> Iterator[tuple[bool, str]]:
    """Yields the parts of a content, and whether each is reasoning: what stands before a mark that ends it."""
    if not _SIGNS.search(content):
        yield False, content
        return
    pieces = _MARKS_OF_REASONING.split(content)
    for index in range(0, len(pieces), 2):
        ending = pieces[index + 1] if index + 1 < len(pieces) else ""
        for text in _SWITCHES.split(pieces[index]):
            yield "/" in ending, text.strip()


def _call(call: Any) -> Iterator[LeftOut]:
    function = call.get("function") if isinstance(call, dict) else None
    function = function if isinstance(function, dict) else call
    if isinstance(function, dict):
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            with suppress(ValueError, RecursionError):
                arguments = json.loads(arguments)
        for text in (*_leaves(function.get("name")), *_leaves(arguments)):
            yield LeftOut(Notes.TOOL_CALLS_NOT_RENDERED, text)


def _leaves(value: Any) -> Iterator[str]:
    """Yields the texts and numbers inside a value; true, false and null have too many spellings to be looked for."""
    if isinstance(value, dict):
        for part in value.values():
            yield from _leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from _leaves(part)
    elif isinstance(value, str):
        if value.strip():
            yield value.strip()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield json.dumps(value)


def _tools(tools: Any) -> Iterator[LeftOut]:
    """Yields the name of each tool."""
    for tool in tools if isinstance(tools, list) else ():
        function = tool.get("function", tool) if isinstance(tool, dict) else tool
        name = function.get("name") if isinstance(function, dict) else None
        if isinstance(name, str) and name:
            yield LeftOut(Notes.TOOLS_NOT_RENDERED, name)


def _documents(documents: Any) -> Iterator[LeftOut]:
    """Yields the longest text of each document."""
    for document in documents if isinstance(documents, list) else ():
        text = max(_leaves(document), key=len, default="")
        if text:
            yield LeftOut(Notes.DOCUMENTS_NOT_RENDERED, text)


def _stand_in_order(parts: Sequence[LeftOut], text: str) -> bool:
    """Says whether all parts stand in the text one after another: then nothing is lacking, and that is the rule."""
    at = 0
    for _, part in parts:
        at = _find(part, text, at)
        if at < 0:
            return False
        at += len(part)
    return True


def _lacking(parts: Sequence[LeftOut], text: str) -> list[LeftOut]:
    """Lists the parts that do not stand in the text. Longer ones take their places first, each its own."""
    lacking = list(_without_place(parts, text))
    tools, calls = (
        {part.text for part in parts if part.note is note}
        for note in (Notes.TOOLS_NOT_RENDERED, Notes.TOOL_CALLS_NOT_RENDERED)
    )
    of_calls = {part.text for part in lacking if part.note is Notes.TOOL_CALLS_NOT_RENDERED}
    if not of_calls - tools:
        return lacking
    # The arguments of a call are not there: a name that stands there once is the tool's and not the call's.
    names = tools & calls - of_calls
    return [part._replace(note=Notes.TOOL_CALLS_NOT_RENDERED) if part.text in names else part for part in lacking]


def _without_place(parts: Sequence[LeftOut], text: str) -> Iterator[LeftOut]:
    bare: list[str] = []
    for part in sorted(parts, key=lambda part: (-len(part.text), _RANKS[part.note])):
        at = _find(part.text, text)
        if at >= 0:
            text = f"{text[:at]}\0{text[at + len(part.text) :]}"
            bare = []
            continue
        bare = bare or _bare(text)
        if not _is_escaped(part.text, text, bare):
            yield part


def _find(part: str, text: str, start: int = 0) -> int:
    """Returns where a part stands in a text, a short one not inside a word; -1 where it does not."""
    head = part[:_HEAD]  # Python prepares the search of a long text at length
    at = text.find(head, start)
    while at >= 0 and not (text.startswith(part, at) and (len(part) > _SHORT or _is_apart(part, text, at))):
        at = text.find(head, at + 1)
    return at


def _is_apart(part: str, text: str, at: int) -> bool:
    """Says whether a part that stands at a place in a text does not stand inside a word there."""
    end = at + len(part)
    return not (
        (_is_letter(part[0]) and _is_letter(text[at - 1 : at]))
        or (_is_letter(part[-1]) and _is_letter(text[end : end + 1]))
    )


def _is_letter(character: str) -> bool:
    """Says whether a character is a letter of a script with upper and lower case, whose words have spaces between."""
    return character.lower() != character.upper()


def _is_escaped(part: str, text: str, bare: Sequence[str]) -> bool:
    """Says whether a part stands in a text under escapes of JSON, Python or HTML, or with other white space.

    Args:
      bare: what `_bare` makes of the text.
    """
    if len(part) <= _SHORT and part.isalnum() and part.isascii():
        return False  # nothing in it to escape
    forms = {part, json.dumps(part, ensure_ascii=False)[1:-1], json.dumps(part)[1:-1], repr(part)[1:-1]}
    return any(form in each for each in bare for form in map(_without_invisible, forms))


def _bare(text: str) -> list[str]:
    """Returns a text without white space and backslashes, and that of what HTML's escapes in it mean."""
    bare = [_without_invisible(text)]
    return [*bare, _without_invisible(html.unescape(text))] if "&" in text else bare


def _without_invisible(text: str) -> str:
    return _INVISIBLE.sub("", text)
