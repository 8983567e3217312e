"""The rules of `compat: trl`: TRL's ORPO trainer since 1.15, token for token, wherever its result is a valid row.

Source: trl 1.16.0, trl/data_utils.py and trl/experimental/orpo/orpo_trainer.py (`tokenize_row`). Settings that
TRL does not have are refused with it.
"""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from oddsmill.pipeline.config import DatasetSettings, SourceConfig
from oddsmill.pipeline.formats import detection, parsing
from oddsmill.pipeline.formats.pairs import Ids, Message, Notes, Pair, PairIds, PreferencePair, chat_pair
from oddsmill.pipeline.formats.parsing import as_row
from oddsmill.pipeline.formats.rows import Row, check_encodable
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.pipeline.tokens.differences import common_length
from oddsmill.pipeline.tokens.encoding import Encoded, Explanation, LengthStep
from oddsmill.pipeline.tokens.rendering import (
    Rendered,
    dropping_failed_templates,
    needed,
    note_left_out,
    template_options,
)
from oddsmill.schemas.chat.template import ChatTemplate
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.chat.tools import kind_of, without_nulls
from oddsmill.schemas.drops import Dropped, DropReason, dropping_errors
from oddsmill.schemas.errors import require
from oddsmill.schemas.record import WHOLE, Truncated

_FORMATS = ("triple", "transcript", "messages")


def check_source(source: SourceConfig) -> None:
    """Refuses what `detection.check_source` refuses, and a margin of scores that TRL does not read.

    Raises:
      Refused: names the setting.
    """
    detection.check_source(source)
    problem = f"has no effect on the format {source.format} with --compat=trl, which reads no scores; leave it out"
    require(source.format not in _FORMATS or not source.margin, "source.margin", source.margin, problem)


@dropping_errors
def parse_row(raw: RawRow, *, source: SourceConfig, not_read: Counter[str] | None = None) -> Sequence[Pair]:
    """Makes the pairs of a row as TRL does; of a format that TRL does not read, as we do.

    Raises:
      Dropped: as `parse_pair`, or as our rules.
    """
    if source.format not in _FORMATS:
        return parsing.parse_row(raw, source=source, not_read=not_read)
    row = as_row(raw, source)
    pair = parse_pair(row)
    if not_read is not None:
        row.count_not_read(not_read)
    return [pair]


def parse_pair(row: Row) -> Pair:
    """Reads a row as `maybe_extract_prompt`: a prompt that is not of the sides' kind is the prefix they have in common.

    Strings have characters in common, dialogues messages.

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
        if not isinstance(variables, dict):
            raise Dropped(DropReason.WRONG_TYPE, f"chat_template_kwargs is {kind_of(variables)}, not an object")
        variables = without_nulls(variables)
    parts = [prompt, *sides]
    if all(isinstance(part, str) for part in parts):
        return PreferencePair(*parts)
    if not all(isinstance(part, list) and part for part in parts):
        raise Dropped(DropReason.TRL_ERROR, "strings beside messages, or no message: TRL raises on this row")
    return chat_pair(parts[0], parts[1], parts[2], variables)


@dropping_errors
def render(pair: Pair, template: ChatTemplate | None, config: DatasetSettings) -> Rendered:
    """Renders the texts of a pair; those of a `PreferencePair` are its own.

    Raises:
      Dropped: TRL raises on these messages, or the template does.
      Refused: there are messages and no template.
    """
    if isinstance(pair, PreferencePair):
        return Rendered(pair)
    prompt, chosen, rejected = pair.messages()
    options = template_options(pair, config) | {"as_given": True}
    rendered = Rendered(render_messages(prompt, chosen, rejected, needed(template), options))
    return note_left_out(rendered, pair, (prompt, chosen, rejected), needed(template), config)


@dropping_failed_templates()
def render_messages(
    prompt: list[Message],
    chosen: list[Message],
    rejected: list[Message],
    template: ChatTemplate,
    options: Mapping[str, Any],
) -> PreferencePair:
    """Renders a dialogue; the prompt is the characters that three renderings have in common.

    Raises:
      Dropped: TRL raises on these messages, or the template does.
    """
    last = prompt[-1].get("role")
    if last in ("user", "tool"):
        start = template.render(prompt, generation_prompt=True, **options)
    elif last == "assistant":
        start = template.render_open(prompt, **options)
    else:
        raise Dropped(DropReason.TRL_ERROR, f"invalid role in the last message of the prompt: {last}")
    sides = [template.render([*prompt, *side], **options) for side in (chosen, rejected)]
    for side in sides:
        start = start[: common_length(start, side)]
    return PreferencePair(start, *(side[len(start) :] for side in sides))


@dropping_errors
def make_ids(encoded: Encoded, tokenizer: Tokenizer, config: DatasetSettings) -> PairIds:
    """Makes the ids of a pair.

    Raises:
      Dropped: TRL raises on this row, or its result is no valid row.
    """
    return fit(*split(*encoded.sides, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id), config)


def split(
    prompt: Ids, with_chosen: Ids, with_rejected: Ids, *, bos_id: int | None, eos_id: int
) -> tuple[list[Ids], list[Ids], bool]:
    """Splits as `tokenize_row` before truncation: the prompt part and the answer of chosen and of rejected.

    Returns: the prompt parts, the answers, and True where a token spans the end of the prompt.

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
    different = heads[0] != heads[1] and sum(a != b for a, b in zip(*heads, strict=False))
    if different > 1 or abs(len(heads[0]) - len(heads[1])) > 1:
        raise Dropped(DropReason.TRL_ERROR, "the prompts of the two sides differ in more than one token")
    for side in (0, 1):
        if bos_id is not None and not (heads[side] and heads[side][0] == bos_id):
            heads[side] = array("i", [bos_id]) + heads[side]
        if not (answers[side] and answers[side][-1] == eos_id):
            answers[side] = answers[side] + array("i", [eos_id])
    return heads, answers, merged


def fit(heads: list[Ids], answers: list[Ids], merged: bool, config: DatasetSettings) -> PairIds:
    """Cuts each answer to what its prompt leaves of `max_length`; the prompt is never cut.

    Where the two sides have different prompts, the prompt is what they have in common and the rest goes to the
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
        sides.append(head + answer[:room])
    shared = common_length(*heads)
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


@dropping_errors
def explain_boundary(encoded: Encoded, tokenizer: Tokenizer) -> Explanation:
    """Says where the prompts of the two sides end.

    Raises:
      Dropped: as `split`.
    """
    heads, answers, merged = split(*encoded.sides, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
    alike = "the same prompt" if heads[0] == heads[1] else "different prompts, which share what is common"
    line = ("boundary", f"as TRL: {'a token was merged; ' if merged else ''}both sides have {alike}")
    return Explanation(PairIds(prompt=heads[0], chosen=answers[0], rejected=answers[1]), [line])


def explain_lengths(before: PairIds, after: PairIds, _: DatasetSettings) -> list[LengthStep]:
    """Lists the lengths before and after TRL's one rule."""
    return [
        LengthStep("before", before.lengths),
        LengthStep("3 answers to what the prompt leaves", after.lengths),
    ]


def _read(value: Any, name: str) -> Any:
    if isinstance(value, str):
        return check_encodable(name, value)
    if isinstance(value, list) and all(isinstance(message, dict) for message in value):
        # TRL's rows are Arrow's, which adds null keys; what a file of another kind does not hold is none here either.
        return [{"role": None, "content": None} | without_nulls(message) for message in value]
    raise Dropped(DropReason.WRONG_TYPE, f"field {name!r} is {kind_of(value)}, neither a string nor messages")


def _extract_prompt(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """Splits as `extract_prompt`, with what it does to equal sides, prefixes and a space at the end (index -1)."""
    size = min(len(chosen), len(rejected))
    if not size:
        raise Dropped(DropReason.TRL_ERROR, "an empty side: TRL raises on this row")
    for index in range(size):
        if chosen[index] != rejected[index]:
            if chosen[index - 1] == " ":
                index -= 1
            break
    return chosen[:index], chosen[index:], rejected[index:]
