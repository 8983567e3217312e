"""Dialogues of messages with roles, for every format that has them: the prompt ends at a turn."""

from typing import Any

from oddsmill.pipeline.formats.pairs import ChatPair, Message, chat_pair, plain_pair
from oddsmill.pipeline.formats.rows import Row
from oddsmill.schemas.chat.messages import (
    KNOWN,
    OPENERS,
    SYSTEM_ROLES,
    MessageForms,
    are_same_turns,
    is_canonical,
    read_turns,
    tools_beside,
)
from oddsmill.schemas.chat.tools import read_variables
from oddsmill.schemas.drops import Dropped, DropReason

_PROMPT_NAMES = ("conversations", "messages")
_FIRST_ROLES = ("user", *SYSTEM_ROLES)  # of a whole conversation
_NOT_ANSWERED = ("assistant", *SYSTEM_ROLES)
_COLUMNS = ("prompt", "chosen", "rejected")
_TO_BE_LOOKED_AT = frozenset(("tools", "chat_template_kwargs", *_PROMPT_NAMES))


def read_dialogues(row: Row, forms: MessageForms = KNOWN) -> ChatPair:
    """Makes the pair of a row's prompt and sides, which are dialogues.

    Raises:
      Dropped: with the reason why these are no pair.
    """
    if forms is KNOWN and (pair := _read_plain(row)):
        return pair
    chosen, rejected = (read_turns(side, row.value(side), forms) for side in ("chosen", "rejected"))
    prompt = _read_prompt(row, forms, chosen, rejected)
    if prompt is None:
        prompt = _prompt_of_one(chosen, rejected)
    if isinstance(chosen, str) and isinstance(rejected, str) and not isinstance(prompt, list):
        raise Dropped(DropReason.WRONG_TYPE, "prompt, chosen and rejected are strings, not messages")
    variables = read_row_variables(row)
    if "tools" not in variables and (tools := _tools_of_sides(row, forms)):
        variables = read_variables(variables, tools)
    return split_dialogues(prompt, as_answer(chosen), as_answer(rejected), variables)


def _read_plain(row: Row) -> ChatPair | None:
    """Reads a row of two dialogues that part at their last turn, as most do: it takes a third of the time.

    Returns: None where the row must be read with more care; so must each that is no pair.
    """
    values = row.values
    if row.names or not _TO_BE_LOOKED_AT.isdisjoint(values):
        return None
    prompt, chosen, rejected = (values.get(name) for name in _COLUMNS)
    if not (type(chosen) is type(rejected) is list and all(map(is_canonical, (*chosen, *rejected)))):
        return None
    if type(prompt) is list:
        turns = prompt
        if not (len(chosen) == len(rejected) == 1 and all(map(is_canonical, turns))):
            return None
    else:  # whole conversations, and perhaps a turn of them
        turns, others, chosen, rejected = chosen[:-1], rejected[:-1], chosen[-1:], rejected[-1:]
        if turns != others or not _begins(turns):
            return None
        if prompt is not None and (prompt not in [turn["content"] for turn in turns] or prompt.lstrip()[:1] in OPENERS):
            return None  # it may be JSON text of messages
    if not turns or turns[-1]["role"] in _NOT_ANSWERED or all(map(_is_blank, turns)):
        return None
    if chosen == rejected or any(turn["role"] != "assistant" or _is_blank(turn) for turn in (*chosen, *rejected)):
        return None
    row.look_at(_COLUMNS)
    return plain_pair(turns, chosen, rejected)


def split_dialogues(
    prompt: list[Message] | str | None,
    chosen: list[Message],
    rejected: list[Message],
    variables: dict[str, Any] | None = None,
) -> ChatPair:
    """Splits two sides where they part: the turns before are the prompt, all that follows is the answer.

    An answer begins and ends with a turn of the assistant. The prompt is as long as that allows; it ends before a turn
    of the assistant's that both sides go on with, be it the same. Turns are the same where a template shows them alike:
    an id or a space at the end makes no other turn.

    A prompt of its own that ends in a turn of the assistant opens that turn, and the answers continue it, also where
    the sides are whole and begin with it.

    Args:
      prompt: None where the sides are whole conversations, which they may be beside a prompt, too. A string is the
        only turn of the user, or one of them where the sides are whole.

    Raises:
      Dropped: with the reason why these are no pair.
    """
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if not side or side[-1]["role"] != "assistant":
            raise Dropped(DropReason.BAD_ROLES, f"{name} does not end with a turn of the assistant")
        if _is_blank(side[-1]):
            raise Dropped(DropReason.EMPTY_ANSWER, f"{name} is empty or white space")
    turns, first, second = as_prompt(prompt), _whole(prompt, chosen, "chosen"), _whole(prompt, rejected, "rejected")
    # No turn of a prompt that both sides follow is a part of the answer.
    follows = len(first) + len(second) == 2 * len(turns) + len(chosen) + len(rejected)
    least = len(turns) if follows else 0
    is_last_assistant = least > 0 and turns[-1]["role"] == "assistant" and not turns[-1].get("tool_calls")
    if is_last_assistant and chosen[0]["role"] == rejected[0]["role"] == "assistant":
        least -= 1
        first, second = ([*turns[:-1], continue_turn(turns[-1], side[0]), *side[1:]] for side in (chosen, rejected))
    size = _prompt_size(first, second, least=least)
    shared = first[:size]
    if all(map(_is_blank, shared)):
        raise Dropped(DropReason.EMPTY_PROMPT, "no turn before the answer has a text")
    if shared[-1]["role"] in SYSTEM_ROLES:
        raise Dropped(DropReason.BAD_ROLES, "the turn before the answer is the system's")
    if isinstance(prompt, str) and prompt.strip() not in ("", *(_text(message).strip() for message in shared)):
        raise Dropped(DropReason.NO_COMMON_PROMPT, "the prompt is no turn of the dialogues")
    if first[size:] == second[size:]:
        raise Dropped(DropReason.IDENTICAL_ANSWERS, "chosen equals rejected")
    if turns and _opens(turns[-1]) and are_same_turns(shared, turns[:-1]):
        rests = _rest(turns[-1], first[size:]), _rest(turns[-1], second[size:])
        if rests[0] and rests[1]:
            return chat_pair(turns, rests[0], rests[1], variables)
    return chat_pair(shared, first[size:], second[size:], variables)


def continue_turn(opened: Message, answer: Message) -> Message:
    """Returns the turn that an answer makes of the one that a prompt has opened."""
    return opened | answer | {"content": _text(opened) + _text(answer)}


def read_row_variables(row: Row) -> dict[str, Any]:
    """Reads what a row gives to the template beside its messages.

    Raises:
      Dropped: it is not of the kind that templates take.
    """
    variables, tools = (row.value(name) if row.has(name) else None for name in ("chat_template_kwargs", "tools"))
    return {} if variables is tools is None else read_variables(variables, tools)


def _tools_of_sides(row: Row, forms: MessageForms) -> Any:
    """Returns the tools that stand beside the messages of prompt and sides, which must be the same; or None.

    Raises:
      Dropped: they differ.
    """
    given = [tools_beside(row.value(name), forms) for name in ("prompt", "chosen", "rejected") if row.has(name)]
    tools = [each for each in given if each]
    if any(each != tools[0] for each in tools):
        raise Dropped(DropReason.WRONG_TYPE, "chosen and rejected have different tools, which would be another prompt")
    return tools[0] if tools else None


def as_answer(side: list[Message] | str) -> list[Message]:
    """Returns a side as messages: a text is the assistant's."""
    return [{"role": "assistant", "content": side}] if isinstance(side, str) else side


def as_prompt(prompt: list[Message] | str | None) -> list[Message]:
    """Returns a prompt as messages: a text is the user's."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt or []


def _read_prompt(row: Row, forms: MessageForms, *sides: list[Message] | str) -> list[Message] | str | None:
    """Reads the prompt; another column is it only where the sides are no whole conversations, or hold its turns.

    Where another column ends in one of the answers, the prompt is what stands before.
    """
    instead = row.free(_PROMPT_NAMES)
    name = next((name for name in ("prompt", *instead) if name in row.values), None)
    if name is None and "prompt" not in row.names:
        return None
    value = row.value("prompt", instead=instead)
    prompt = None if value is None else read_turns("the prompt", value, forms)
    is_named = name == "prompt" or "prompt" in row.names
    if (
        isinstance(prompt, list)
        and not is_named
        and any(are_same_turns(prompt[-1:], as_answer(side)) for side in sides)
    ):
        return prompt[:-1]
    whole = [side for side in sides if isinstance(side, list) and _begins(side)]
    if is_named or len(whole) < len(sides) or all(_turns_in(prompt, side) is not None for side in whole):
        return prompt
    return None


def _prompt_of_one(*sides: list[Message] | str) -> list[Message] | None:
    """Returns the turns before the last of the one side that is a whole conversation; the other is an answer."""
    whole = [side for side in sides if isinstance(side, list) and _begins(side)]
    return whole[0][:-1] if len(whole) == 1 else None


def _whole(prompt: list[Message] | str | None, side: list[Message], name: str) -> list[Message]:
    """Returns the whole conversation of a side, which stands in it already or is what follows the prompt.

    A side that begins with a turn of the user or the system is whole, and the prompt's turns stand in it: by roles and
    by what a template shows, not by equal values. System turns that the prompt alone has go before it.

    Raises:
      Dropped: a whole side lacks the prompt's turns.
    """
    turns = as_prompt(prompt)
    if not _begins(side) or (isinstance(prompt, str) and len(side) == 1):
        return side if turns and are_same_turns(side[: len(turns)], turns) else [*turns, *side]
    if isinstance(prompt, str) or all(map(_is_blank, turns)):
        return side  # that a prompt of text is one of the turns is looked at where both sides are known
    systems = _turns_in(turns, side)
    if systems is not None:
        return [*systems, *side]
    if turns[-1]["role"] == "assistant":  # the prompt is what was said before, and the side goes on
        return [*turns, *side]
    raise Dropped(DropReason.NO_COMMON_PROMPT, f"{name} is a whole conversation, and the prompt is no part of it")


def _turns_in(prompt: list[Message] | str | None, side: list[Message]) -> list[Message] | None:
    """Returns the system turns that a whole conversation lacks of a prompt; None where it lacks other turns, too.

    The last turn of the prompt may be an answer: some sets have a conversation beside two versions of it.
    """
    wanted = [turn for turn in as_prompt(prompt) if turn["role"] not in SYSTEM_ROLES]
    systems = [turn for turn in as_prompt(prompt) if turn["role"] in SYSTEM_ROLES]
    own_systems = [turn for turn in side if turn["role"] in SYSTEM_ROLES]
    own = [turn for turn in side if turn["role"] not in SYSTEM_ROLES]
    if systems and own_systems and not are_same_turns(systems, own_systems):
        return None
    for turns in (wanted, wanted[:-1] if wanted and wanted[-1]["role"] == "assistant" else wanted):
        if any(are_same_turns(own[at : at + len(turns)], turns) for at in range(len(own) - len(turns) + 1)):
            return [] if own_systems else systems
    return None


def _begins(side: list[Message]) -> bool:
    """Says whether the first turn of a side is that of a whole conversation."""
    return bool(side) and side[0]["role"] in _FIRST_ROLES


def _prompt_size(chosen: list[Message], rejected: list[Message], *, least: int) -> int:
    """Counts the turns of the longest prompt, not below `least`, after which both dialogues have an answer.

    Raises:
      Dropped: there is none.
    """
    alike, most = 0, min(len(chosen), len(rejected)) - 1
    while alike < most and are_same_turns(chosen[alike : alike + 1], rejected[alike : alike + 1]):
        alike += 1
    for size in range(alike, least - 1, -1):
        roles = {dialogue[size]["role"] for dialogue in (chosen, rejected)}
        if roles == {"assistant"} and (size == 0 or chosen[size - 1]["role"] != "assistant"):
            return size
    parting = " and ".join(sorted({dialogue[alike]["role"] for dialogue in (chosen, rejected)}))
    if parting == "assistant":
        raise Dropped(DropReason.BAD_ROLES, "the turn before the answer is the assistant's too")
    problem = f"the dialogues part at turn {alike + 1}, of {parting}, before any answer of the assistant"
    raise Dropped(DropReason.NO_COMMON_PROMPT, problem)


def _opens(message: Message) -> bool:
    return bool(message["role"] == "assistant" and not message.get("tool_calls") and not _is_blank(message))


def _rest(opened: Message, answer: list[Message]) -> list[Message] | None:
    """Returns what an answer adds to the turn that the prompt has opened; None where it does not continue it."""
    turn, *others = answer
    rest = turn | {"content": _text(turn).removeprefix(_text(opened))}
    continues = _text(turn).startswith(_text(opened)) and (others or not _is_blank(rest))
    return [rest, *others] if continues else None


def _text(message: Message) -> str:
    return message["content"] or ""


def _is_blank(message: Message) -> bool:
    return not _text(message).strip() and not message.get("tool_calls")
