"""The one reader of messages: every form that rows have becomes messages of role and content.

Both stages read by it, so that a prompt is the same in training and in generation. docs/reference/messages.md lists
the forms.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from oddsmill.schemas.chat.template import REASONING_FIELDS, Message
from oddsmill.schemas.chat.tools import kind_of, read_calls, without_nulls
from oddsmill.schemas.drops import Dropped, DropReason
from oddsmill.schemas.errors import require

SYSTEM_ROLES = ("system", "developer")
ROLES = (*SYSTEM_ROLES, "user", "assistant", "tool")
# A turn of the assistant whose text is JSON of its calls.
CALLS = "function_call"
_ALIASES = {
    "user": "human prompter",
    "assistant": "gpt chatgpt gpt4 gpt_4 bot chatbot model ai ai_assistant llm bing bard claude",
    "system": "sys system_prompt",
    "tool": "function observation tool_response function_response tool_result tool_results function_result tool_output "
    "ipython environment",
    CALLS: "function_call function_calls tool_call tool_calls",
}
_ROLE_OF = {role: role for role in ROLES} | {
    alias: role for role, aliases in _ALIASES.items() for alias in aliases.split()
}
# Of the first two keys, both are read; of the others, one stands for a missing one.
_ROLE_KEYS = ("role", "from", "speaker", "author", "sender")
_CONTENT_KEYS = ("content", "value", "text", "message", "utterance")
# An object with one of these is a conversation, and may hold its tools beside them.
_CONVERSATION_KEYS = ("messages", "conversations", "conversation")
_MEDIA_KEYS = ("images", "image", "image_url", "videos", "video", "audios", "audio")
_TEXT_PARTS = ("text", "input_text", "output_text")
OPENERS = frozenset("[{")  # JSON text of messages begins with one of them
_REPR = re.compile(r"\s*\[?\s*\{\s*'(?:role|from|content|value)'\s*:")
_THOUGHT = re.compile(r"\s*(<think>.*?</think>)?\s*(.*)", re.DOTALL)


class MessageForms(NamedTuple):
    """The names that a source has for roles and for the keys of messages, beside those that are known.

    Attributes:
      roles: our role by the source's.
      keys: the source's names of `role` and `content`.
      option: what stands before the names of these settings in messages.
    """

    roles: Mapping[str, str] = {}
    keys: Mapping[str, str] = {}
    option: str = "source."

    def check(self) -> None:
        """Checks what the settings say.

        Raises:
          Refused: a role is none of ours, or a key is neither `role` nor `content`.
        """
        meanings = (*ROLES, CALLS)
        unknown = set(self.roles.values()) - set(meanings)
        require(not unknown, f"{self.option}roles", self.roles, f"a role means one of {', '.join(meanings)}")
        names = f"{self.option}message_keys"
        require(self.keys.keys() <= {"role", "content"}, names, self.keys, "the keys of a message are role and content")
        require(all(self.keys.values()), names, self.keys, "give the source's names")


KNOWN = MessageForms()


def read_turns(name: str, value: Any, forms: MessageForms = KNOWN) -> list[Message] | str:
    """Reads messages: a list of them, one of them, an object of a conversation, or JSON text of these.

    Any other text stays what it is.

    Args:
      name: the name of the value in messages.

    Raises:
      Dropped: it has another form, or one of its messages has.
    """
    if isinstance(value, str):
        decoded = decode_messages(name, value, forms)
        if decoded is None:
            return value
        value = decoded
    if isinstance(value, dict):
        value = _messages_in(value) or [value]
    if not isinstance(value, list):
        raise Dropped(DropReason.WRONG_TYPE, f"{name} is {kind_of(value)}, not a list of messages")
    turns: list[Message] = []
    for member in value:
        if forms is KNOWN and (plain := _plain(member)):
            turns.append(plain)
            continue
        message, has_calls_alone = _read(member, forms)
        if has_calls_alone and turns and turns[-1]["role"] == "assistant":
            calls = [*turns[-1].get("tool_calls", []), *message["tool_calls"]]
            turns[-1] = turns[-1] | {"tool_calls": calls}  # calls that are told one by one are one turn
        else:
            turns.append(message)
    return turns


def read_message(value: Any, forms: MessageForms = KNOWN) -> Message:
    """Reads a message as role and content, and what else it holds; null keys are left out at every depth.

    Raises:
      Dropped: it is no message, its role is not known, or it holds something else than text and calls.
    """
    return _read(value, forms)[0]


def decode_messages(name: str, text: str, forms: MessageForms = KNOWN) -> Any:
    """Returns the messages that a text holds as JSON; None where it is a text and nothing else.

    Raises:
      Dropped: it is the Python repr of messages.
    """
    if text.lstrip()[:1] not in OPENERS:
        return None
    if _REPR.match(text) and text.rstrip()[-1] in "]}" and ("'content'" in text or "'value'" in text):
        raise Dropped(DropReason.WRONG_TYPE, f"{name} is messages as a Python repr; write JSON")
    value = _decode_conversation(text, forms)
    value = _messages_in(value) or value
    members = value if isinstance(value, list) else [value]
    return value if members and all(_is_message(member, forms) for member in members) else None


def tools_beside(value: Any, forms: MessageForms = KNOWN) -> Any:
    """Returns the tools that an object of a conversation, or JSON text of one, holds beside its messages, or None."""
    if isinstance(value, str) and value.lstrip()[:1] in OPENERS:
        value = _decode_conversation(value, forms)
    return value.get("tools") if _messages_in(value) else None


def _decode_conversation(text: str, forms: MessageForms) -> Any:
    """Returns the value of JSON text that names a speaker; None where it is no such text."""
    if not any(f'"{key}"' in text for key in _role_keys(forms)):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _messages_in(value: Any) -> list[Any] | None:
    """Returns the list of messages that an object of a conversation holds; None where it is none."""
    if not isinstance(value, dict) or "role" in value or "from" in value:
        return None
    return next((value[key] for key in _CONVERSATION_KEYS if isinstance(value.get(key), list)), None)


def seen(message: Message) -> tuple[Any, ...]:
    """Returns what a template shows of a message: role, text without space around it, calls, reasoning.

    Two turns that a template shows alike are the same turn, whatever else (ids, times) stands in their messages.
    """
    calls = [
        (function.get("name"), function.get("arguments"))
        for function in (call.get("function", call) for call in message.get("tool_calls", []))
    ]
    reasoning = next((message[key] for key in REASONING_FIELDS if message.get(key)), "")
    name = message.get("name") if message["role"] == "tool" else None
    return message["role"], (message["content"] or "").strip(), calls, str(reasoning).strip(), name


def are_same_turns(first: Sequence[Message], second: Sequence[Message]) -> bool:
    """Says whether a template shows two dialogues alike."""
    if len(first) != len(second):
        return False
    for one, other in zip(first, second, strict=True):
        if one != other and (one["role"] != other["role"] or seen(one) != seen(other)):
            return False
    return True


def read_content(content: Any) -> str:
    """Reads the text of a content, which may be a part or a list of parts.

    Raises:
      Dropped: a part is not a text: an image, a sound, a video.
    """
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = content["parts"] if isinstance(content.get("parts"), list) else [content]
    if not isinstance(content, list):
        raise Dropped(DropReason.WRONG_TYPE, f"the content of a message is {kind_of(content)}, not a string")
    texts = []
    for part in content:
        if isinstance(part, dict) and (part.get("type") or "text") in _TEXT_PARTS:
            text = next((part[key] for key in ("text", "value", "content") if part.get(key) is not None), None)
            if not isinstance(text, str):
                keys = ", ".join(map(str, part)) or "nothing"
                raise Dropped(DropReason.WRONG_TYPE, f"the content of a message is an object of {keys}, without a text")
            part = text
        if isinstance(part, str):
            texts.append(part)
            continue
        name = part.get("type") if isinstance(part, dict) else kind_of(part)
        raise Dropped(DropReason.UNSUPPORTED_CONTENT, f"a message holds a part {name!r}; only text parts are read")
    return "".join(texts)


def is_canonical(message: Any) -> bool:
    """Says whether a value is a message as we make it: one of our roles and a text alone, in this order."""
    return (
        type(message) is dict
        and [*message] == ["role", "content"]
        and message["role"] in ROLES
        and type(message["content"]) is str
    )


def _plain(value: Any) -> Message | None:
    """Reads a message of a known role and a text alone, which most are; None of any other."""
    if isinstance(value, dict) and len(value) == 2:
        of_role, of_content = ("role", "content") if "role" in value else ("from", "value")
        name, content = value.get(of_role), value.get(of_content)
        role = _ROLE_OF.get(name) if type(name) is str else None
        if role in ROLES and isinstance(content, str):
            return {"role": role, "content": content}
    return None


def _read(value: Any, forms: MessageForms) -> tuple[Message, bool]:
    """Reads a message; True beside it where its turn is of calls alone."""
    if isinstance(value, str) and (decoded := decode_messages("a message", value, forms)) is not None:
        value = decoded
    if not isinstance(value, dict):
        raise Dropped(DropReason.WRONG_TYPE, f"a message is {kind_of(value)}, not an object of role and content")
    message = {key: part for key, part in value.items() if part is not None}
    role = _take_role(message, forms)
    content = _take_content(message, forms)
    calls = read_calls(message.pop("tool_calls", None)) or read_calls(message.pop("function_call", None))
    medium = next((key for key in _MEDIA_KEYS if message.get(key)), None)
    if medium:
        raise Dropped(DropReason.UNSUPPORTED_CONTENT, f"a message holds {medium!r}; only texts are read")
    has_calls_alone = role == CALLS and not calls
    if has_calls_alone:
        content, calls = _read_calls_of_text(content)
    more = {key: without_nulls(message[key]) for key in sorted(message)}
    if calls:
        more["tool_calls"] = calls
    text = None if content is None and calls else read_content(content)
    return {"role": "assistant" if role == CALLS else role, "content": text} | more, has_calls_alone


def _take_role(message: dict[str, Any], forms: MessageForms) -> str:
    """Takes the role out of a message."""
    key = next((key for key in _role_keys(forms) if key in message), None)
    if key is None:
        keys_there = f"an object of {', '.join(map(str, message)) or 'nothing'}"
        raise Dropped(DropReason.WRONG_TYPE, f"a message is {keys_there}, not of role and content or from and value")
    name = message.pop(key)
    role = _role_of(name, forms)
    if role is None:
        example = json.dumps({str(name): "assistant"}, ensure_ascii=False)
        raise Dropped(
            DropReason.BAD_ROLES,
            f"{key} {name!r} is not one of {', '.join(ROLES)}, nor a known name of one; "
            f"say what it means, e.g. --{forms.option}roles='{example}'",
        )
    if key == "role" and "from" in message and (other := _role_of(message["from"], forms)):
        if other != role:
            raise Dropped(DropReason.BAD_ROLES, f"a message has role {name!r} and from {message['from']!r}")
        del message["from"]
    return role


def _role_of(name: Any, forms: MessageForms) -> str | None:
    if not isinstance(name, str):
        return None
    if name in forms.roles:
        return forms.roles[name]
    plain = name.strip().lower()
    given = next((role for key, role in forms.roles.items() if key.strip().lower() == plain), None)
    if given is not None:
        return given
    return _ROLE_OF.get(plain) or _ROLE_OF.get(plain.replace("-", "_").replace(" ", "_"))


def _take_content(message: dict[str, Any], forms: MessageForms) -> Any:
    """Takes the content out of a message; None where there is none."""
    key = next((key for key in _content_keys(forms) if key in message), None)
    if key is None:
        return None
    content = message.pop(key)
    if key == "content" and isinstance(message.get("value"), str | list):
        if message["value"] != content:
            raise Dropped(DropReason.WRONG_TYPE, "a message has a content and another value")
        del message["value"]
    return content


def _role_keys(forms: MessageForms) -> tuple[str, ...]:
    return (forms.keys["role"],) if "role" in forms.keys else _ROLE_KEYS


def _content_keys(forms: MessageForms) -> tuple[str, ...]:
    return (forms.keys["content"],) if "content" in forms.keys else _CONTENT_KEYS


def _is_message(value: Any, forms: MessageForms) -> bool:
    """Says whether a value has the keys of a message: by them a text that is JSON of messages is told from others.

    Other keys than the two usual pairs stand in other objects, too: with them the role must be a known one.
    """
    if not isinstance(value, dict):
        return False
    if ("role" in value and ("content" in value or "tool_calls" in value)) or ("from" in value and "value" in value):
        return True
    speaker = next((value[key] for key in _role_keys(forms) if key in value), None)
    has_content = any(key in value for key in (*_content_keys(forms), "tool_calls", "function_call"))
    return has_content and _role_of(speaker, forms) is not None


def _read_calls_of_text(content: Any) -> tuple[str | None, list[dict[str, Any]]]:
    """Reads a turn whose text is JSON of a call or of several; reasoning in `<think>` may stand before it."""
    thought = None
    if isinstance(content, str):
        thought, content = _THOUGHT.fullmatch(content).groups()  # type: ignore[union-attr]  # it matches every text
    try:
        calls = read_calls(content)
    except Dropped as dropped:
        raise Dropped(DropReason.WRONG_TYPE, f"a turn of {CALLS} is no JSON of calls: {dropped.detail}") from None
    if not calls:
        raise Dropped(DropReason.WRONG_TYPE, f"a turn of {CALLS} holds no call")
    return thought, calls
