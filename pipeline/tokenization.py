"""From the texts of a pair to its ids: the boundary, BOS and EOS, the length rules. Pure functions.

In this order: the prompt's ids are what prompt, prompt + chosen and prompt + rejected have in common; BOS once
at the head; EOS once at the end of each answer; then what is too long is cut or the pair dropped.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from pipeline.config import PreprocessConfig
from pipeline.drops import Dropped, DropReason
from pipeline.formats import PreferencePair
from pipeline.tokenizer import TextTokenizer
from schemas.record import WHOLE, Truncated


@dataclass(frozen=True, kw_only=True)
class PairIds:
    """The ids of a pair.

    Attributes:
      boundary_merged: a token spans the end of the prompt's text in one of the answers, so that the
        prompt's ids are fewer than those of its text alone.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    truncated: Truncated = WHOLE
    boundary_merged: bool = False

    def as_bytes(self) -> bytes:
        """Prompt, chosen and rejected one after another, as int32."""
        return array("i", [*self.prompt, *self.chosen, *self.rejected]).tobytes()


def tokenize_batch(
    pairs: Sequence[PreferencePair], tokenizer: TextTokenizer, config: PreprocessConfig
) -> Iterator[PairIds | Dropped]:
    """Tokenizes pairs, all their texts in one call: the tokenizer spreads a call over the cores."""
    texts = [text for p, c, r in pairs for text in (p, p + c, p + r)]
    encoded = iter(tokenizer.encode_batch(texts))
    for prompt, with_chosen, with_rejected in zip(encoded, encoded, encoded, strict=True):
        try:
            ids = split_at_boundary(prompt, with_chosen, with_rejected, has_bos=tokenizer.bos_id is not None)
            yield fit(add_special_tokens(ids, tokenizer), config, bos_id=tokenizer.bos_id)
        except Dropped as dropped:
            yield dropped


def split_at_boundary(prompt: list[int], with_chosen: list[int], with_rejected: list[int], *, has_bos: bool) -> PairIds:
    """Splits the ids of prompt + answer where the three encodings part.

    Both sides share the prompt by construction, and prompt + answer decodes to the whole text.

    Raises:
      Dropped: an answer is left with no token, or the prompt is and no BOS will stand for it.
    """
    size = len(prompt)
    merged = not prompt == with_chosen[:size] == with_rejected[:size]
    if merged:
        same = takewhile(lambda ids: ids[0] == ids[1] == ids[2], zip(prompt, with_chosen, with_rejected, strict=False))
        size = sum(1 for _ in same)
    if size == 0 and not has_bos:
        raise Dropped(DropReason.NO_COMMON_PROMPT, "the two sides share no token of the prompt")
    chosen, rejected = with_chosen[size:], with_rejected[size:]
    for side, ids in (("chosen", chosen), ("rejected", rejected)):
        if not ids:
            raise Dropped(DropReason.EMPTY_ANSWER, f"{side} has no token of its own")
    return PairIds(prompt=prompt[:size], chosen=chosen, rejected=rejected, boundary_merged=merged)


def add_special_tokens(ids: PairIds, tokenizer: TextTokenizer) -> PairIds:
    """BOS before the prompt and EOS after each answer, each only where it does not stand already."""
    prompt = ids.prompt
    if tokenizer.bos_id is not None and prompt[:1] != [tokenizer.bos_id]:
        prompt = [tokenizer.bos_id, *prompt]
    return PairIds(
        prompt=prompt,
        chosen=_with_eos(ids.chosen, tokenizer),
        rejected=_with_eos(ids.rejected, tokenizer),
        boundary_merged=ids.boundary_merged,
    )


def fit(ids: PairIds, config: PreprocessConfig, *, bos_id: int | None) -> PairIds:
    """Applies the length rules; every answer that comes in ends with EOS, and one that is cut loses it.

    1. An answer longer than `max_completion_length` is cut at its end.
    2. If prompt + longer answer exceed `max_length`, the prompt is cut to what is left, but not below
       `max_prompt_length`: a short answer leaves room to a long prompt.
    3. What still exceeds `max_length` is cut from the answers' ends, each side alone.

    Raises:
      Dropped: the prompt leaves no room for an answer, a cut is needed and `overlong` is `drop`, or the
        pair does not fit a row.
    """
    limit = config.max_completion_length
    chosen, rejected = ids.chosen[:limit], ids.rejected[:limit]
    left = config.max_length - max(len(chosen), len(rejected))
    prompt = _cut_prompt(ids.prompt, max(left, config.max_prompt_length), config, bos_id)
    room = config.max_length - len(prompt)
    if room < 1:
        raise Dropped(
            DropReason.PROMPT_TOO_LONG,
            f"{len(prompt)} tokens of prompt leave no room for an answer in max_length {config.max_length}",
        )
    chosen, rejected = chosen[:room], rejected[:room]
    truncated = WHOLE
    for flag, before, after in (
        (Truncated.PROMPT, ids.prompt, prompt),
        (Truncated.CHOSEN, ids.chosen, chosen),
        (Truncated.REJECTED, ids.rejected, rejected),
    ):
        if len(after) < len(before):
            truncated |= flag
            if config.overlong == "drop":
                is_prompt = flag is Truncated.PROMPT
                raise Dropped(
                    DropReason.PROMPT_TOO_LONG if is_prompt else DropReason.ANSWER_TOO_LONG,
                    f"{flag.names()[0]} has {len(before)} tokens, {len(after)} fit",
                )
    slots = len(prompt) + len(chosen) + len(rejected)
    if slots > config.slots:
        raise Dropped(DropReason.PAIR_TOO_LONG, f"{slots} tokens, a row has {config.slots}")
    return PairIds(
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        truncated=truncated,
        boundary_merged=ids.boundary_merged,
    )


def _cut_prompt(prompt: list[int], limit: int, config: PreprocessConfig, bos_id: int | None) -> list[int]:
    """At most `limit` tokens of the prompt; its BOS is one of them."""
    if len(prompt) <= limit:
        return prompt
    if config.truncation_side == "keep_start":
        return prompt[:limit]
    head = [bos_id] if bos_id is not None else []
    return head + prompt[len(prompt) - (limit - len(head)) :]


def _with_eos(answer: list[int], tokenizer: TextTokenizer) -> list[int]:
    """The answer with EOS at its end, unless its last token that is not white space is EOS."""
    for token in reversed(answer):
        if token == tokenizer.eos_id:
            return answer
        if not tokenizer.is_space(token):
            break
    return [*answer, tokenizer.eos_id]
