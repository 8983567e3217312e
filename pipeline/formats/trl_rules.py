"""`compat: trl`: what TRL's ORPO trainer does since 1.15, token for token, wherever its result is a valid row.

Source: trl 1.16.0, trl/data_utils.py and trl/experimental/orpo/orpo_trainer.py (`tokenize_row`). Settings that
TRL does not have are refused with it, but `max_prompt_length`, which keeps its default and is not used.
"""

from itertools import takewhile
from typing import Any

from oddsmill.pipeline.config import DatasetSettings
from oddsmill.pipeline.drops import Dropped, DropReason
from oddsmill.pipeline.formats.fields import Row, check_encodable, kind_of
from oddsmill.pipeline.formats.pairs import Notes, Pair, PairIds, PreferencePair, chat_pair
from oddsmill.schemas.record import WHOLE, Truncated

FORMATS = ("triple", "transcript", "messages")


def parse_pair(row: Row) -> Pair:
    """`maybe_extract_prompt`: without a prompt of the sides' kind, it is the prefix that they have in common.

    Of strings that is one of characters, of dialogues one of messages.

    Raises:
      Dropped: a value that TRL cannot read, or that it raises on.
    """
    sides = [_read(row.value(name), name) for name in ("chosen", "rejected")]
    prompt = _read(row.value("prompt"), "prompt") if "prompt" in row.names or "prompt" in row.values else None
    variables: dict[str, Any] = {}
    if prompt is None or isinstance(prompt, str) != isinstance(sides[0], str):
        prompt, *sides = _extract_prompt(*sides)
    elif row.has("chat_template_kwargs"):
        variables = row.value("chat_template_kwargs")
    parts = [prompt, *sides]
    if all(isinstance(part, str) for part in parts):
        return PreferencePair(*parts)
    if not all(isinstance(part, list) and part for part in parts):
        raise Dropped(DropReason.TRL_ERROR, "strings beside messages, or no message: TRL raises on this row")
    return chat_pair(parts[0], parts[1], parts[2], variables)


def split_as_trl(
    prompt: list[int], with_chosen: list[int], with_rejected: list[int], *, bos_id: int | None, eos_id: int
) -> tuple[list[list[int]], list[list[int]], bool]:
    """`tokenize_row` before truncation: the prompt part and the answer of chosen and of rejected.

    Returns: prompt parts, answers, and whether a token spans the end of the prompt.

    Raises:
      Dropped: TRL raises on this row.
    """
    heads, answers, merged = [], [], False
    for full in (with_chosen, with_rejected):
        size = len(prompt)
        if len(full) < size:
            raise Dropped(DropReason.TRL_ERROR, "prompt + answer has fewer tokens than the prompt")
        if full[:size] != prompt:
            size, merged = size - 1, True
        heads.append(full[:size])
        answers.append(full[size:])
    different = sum(a != b for a, b in zip(*heads, strict=False))
    if different > 1 or abs(len(heads[0]) - len(heads[1])) > 1:
        raise Dropped(DropReason.TRL_ERROR, "the prompts of the two sides differ in more than one token")
    for side in (0, 1):
        if bos_id is not None and heads[side][:1] != [bos_id]:
            heads[side] = [bos_id, *heads[side]]
        if answers[side][-1:] != [eos_id]:
            answers[side] = [*answers[side], eos_id]
    return heads, answers, merged


def fit_as_trl(heads: list[list[int]], answers: list[list[int]], merged: bool, config: DatasetSettings) -> PairIds:
    """TRL's cut: each answer to what its prompt leaves of `max_length`; the prompt is never cut.

    Where the two sides have different prompts, what they have in common is the prompt and the rest goes to the
    answers, so that the whole of each side is TRL's.

    Raises:
      Dropped: TRL's result is no valid row (an empty answer, a side longer than `max_length`, no prompt), or
        the pair does not fit a row.
    """
    truncated, sides = WHOLE, []
    for head, answer, flag in zip(heads, answers, (Truncated.CHOSEN, Truncated.REJECTED), strict=True):
        room = config.max_length - len(head)
        if room < 1:
            raise Dropped(
                DropReason.PROMPT_TOO_LONG,
                f"{len(head)} tokens of prompt leave no room for an answer in max_length {config.max_length}",
            )
        if len(answer) > room:
            truncated |= flag
        sides.append([*head, *answer[:room]])
    shared = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(*heads, strict=False)))
    if not shared:
        raise Dropped(DropReason.EMPTY_PROMPT, "the two sides share no token of the prompt")
    slots = sum(map(len, sides)) - shared
    if slots > config.slots:
        raise Dropped(DropReason.PAIR_TOO_LONG, f"{slots} tokens, a row has {config.slots}")
    notes = Notes.BOUNDARY_MERGED * merged | Notes.PROMPTS_DIFFER * (heads[0] != heads[1])
    return PairIds(
        prompt=sides[0][:shared],
        chosen=sides[0][shared:],
        rejected=sides[1][shared:],
        truncated=truncated,
        notes=Notes(notes),
    )


def _read(value: Any, name: str) -> Any:
    if isinstance(value, str):
        return check_encodable(name, value)
    if isinstance(value, list) and all(isinstance(message, dict) for message in value):
        return value
    raise Dropped(DropReason.WRONG_TYPE, f"field {name!r} is {kind_of(value)}, neither a string nor messages")


def _extract_prompt(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """`extract_prompt`, with what it does to equal sides, prefixes and a space at the end (index -1)."""
    size = min(len(chosen), len(rejected))
    if not size:
        raise Dropped(DropReason.TRL_ERROR, "an empty side: TRL raises on this row")
    for index in range(size):
        if chosen[index] != rejected[index]:
            if chosen[index - 1] == " ":
                index -= 1
            break
    return chosen[:index], chosen[index:], rejected[index:]
