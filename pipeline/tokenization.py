"""From a pair to its ids: the boundary, BOS and EOS, the length rules. Pure functions.

In this order: the prompt's ids are what prompt, prompt + chosen and prompt + rejected have in common; BOS once
at the head; EOS once at the end of each answer; then what is too long is cut or the pair dropped.
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

from pipeline import trl_rules
from pipeline.config import PreprocessConfig
from pipeline.drops import Dropped, DropReason
from pipeline.pairs import NOTHING, ChatPair, Notes, Pair, PairIds, PreferencePair
from pipeline.rendering import (
    Rendered,
    needed,
    render_as_trl,
    render_messages,
    render_pair,
    shorter_prompts,
    template_options,
)
from pipeline.safe_cut import last_safe_cut
from pipeline.tokenizer import TextTokenizer
from schemas.record import Truncated


class Encoded(NamedTuple):
    """A pair with its texts, and the ids of prompt, prompt + chosen and prompt + rejected."""

    pair: Pair
    rendered: Rendered
    prompt: list[int]
    with_chosen: list[int]
    with_rejected: list[int]

    @property
    def sides(self) -> tuple[list[int], list[int], list[int]]:
        """The three encodings."""
        return self.prompt, self.with_chosen, self.with_rejected


def tokenize_batch(
    pairs: Sequence[Pair], tokenizer: TextTokenizer, config: PreprocessConfig
) -> Iterator[PairIds | Dropped]:
    """Tokenizes pairs, all their texts in one call: the tokenizer spreads a call over the cores.

    Raises:
      Refused: a pair holds messages and the tokenizer has no chat template.
    """
    for encoded in encode_pairs(pairs, tokenizer, config):
        try:
            yield encoded if isinstance(encoded, Dropped) else finish(encoded, tokenizer, config)
        except Dropped as dropped:
            yield dropped


def encode_pairs(
    pairs: Sequence[Pair], tokenizer: TextTokenizer, config: PreprocessConfig
) -> Iterator[Encoded | Dropped]:
    """The costly half of `tokenize_batch`, which no length setting has a part in.

    Raises:
      Refused: as `tokenize_batch`.
    """
    rendered = [_render(pair, tokenizer, config) for pair in pairs]
    texts = [pair.texts for pair in rendered if isinstance(pair, Rendered)]
    encoded = iter(encode_sides(texts, tokenizer))
    for pair, texts_of_pair in zip(pairs, rendered, strict=True):
        if isinstance(texts_of_pair, Dropped):
            yield texts_of_pair
        else:
            yield Encoded(pair, texts_of_pair, *next(encoded))


def finish(encoded: Encoded, tokenizer: TextTokenizer, config: PreprocessConfig) -> PairIds:
    """The other half of `tokenize_batch`: boundary, special tokens, length rules.

    Raises:
      Dropped: with the reason.
    """
    if config.compat == "trl":
        heads, answers, merged = trl_rules.split_as_trl(
            *encoded.sides, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id
        )
        return trl_rules.fit_as_trl(heads, answers, merged, config)
    ids = _split(encoded.sides, encoded.rendered, tokenizer)
    if isinstance(encoded.pair, ChatPair):
        ids = drop_turns(encoded.pair, ids, tokenizer, config)
    return fit(ids, config, bos_id=tokenizer.bos_id)


def encode_sides(pairs: Sequence[PreferencePair], tokenizer: TextTokenizer) -> Iterator[tuple[list[int], ...]]:
    """The ids of prompt, prompt + chosen and prompt + rejected of each pair.

    Where the tokenizer allows it, the most part of a prompt is encoded once (pipeline/safe_cut.py).
    """
    texts = []
    for prompt, chosen, rejected in pairs:
        cut = last_safe_cut(prompt) if tokenizer.cuts_are_safe else 0
        tail = prompt[cut:]
        texts += [prompt[:cut], tail, tail + chosen, tail + rejected]
    # Pairs share prompts, and prompts ("\n\nAssistant:") their tails: each text is encoded once.
    distinct = list(dict.fromkeys(texts))
    ids_of = dict(zip(distinct, tokenizer.encode_batch(distinct), strict=True))
    encoded = map(ids_of.__getitem__, texts)
    for head, *tails in zip(encoded, encoded, encoded, encoded, strict=True):
        yield tuple(head + ids for ids in tails)


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
    notes = Notes.BOUNDARY_MERGED if merged else NOTHING
    return PairIds(prompt=prompt[:size], chosen=chosen, rejected=rejected, notes=notes)


def add_special_tokens(ids: PairIds, tokenizer: TextTokenizer) -> PairIds:
    """BOS before the prompt and EOS after each answer, each only where it does not stand already."""
    prompt = ids.prompt
    if tokenizer.bos_id is not None and prompt[:1] != [tokenizer.bos_id]:
        prompt = [tokenizer.bos_id, *prompt]
    return ids._replace(
        prompt=prompt, chosen=_with_eos(ids.chosen, tokenizer), rejected=_with_eos(ids.rejected, tokenizer)
    )


def drop_turns(pair: ChatPair, ids: PairIds, tokenizer: TextTokenizer, config: PreprocessConfig) -> PairIds:
    """Takes whole turns from the head of a prompt that is too long: as few as make it fit, if any number does.

    System turns stay, and so does the last turn of the user with what follows it: if that is too long, it is
    cut as a text is. Nothing is taken where `overlong` is `drop`.

    Returns: the ids without these turns.
    """
    if len(ids.prompt) <= _prompt_limit(ids, config) or config.overlong == "drop":
        return ids
    prompt, chosen, rejected = pair.messages()
    template, options = needed(tokenizer.chat_template), template_options(pair, config)
    shorter, best = shorter_prompts(prompt), ids
    low, high = 0, len(shorter) - 1
    while low <= high:  # the first that fits; where none does, the shortest
        middle = (low + high) // 2
        try:
            rendered = render_messages(shorter[middle], chosen, rejected, template, options)
            candidate = _split(next(encode_sides([rendered.texts], tokenizer)), rendered, tokenizer)
        except Dropped:  # the template does not take a dialogue that begins here
            low = middle + 1
            continue
        fits = len(candidate.prompt) <= _prompt_limit(candidate, config)
        if fits or len(candidate.prompt) < len(best.prompt):
            best = candidate._replace(truncated=Truncated.PROMPT, notes=candidate.notes | Notes.TURNS_DROPPED)
        low, high = (low, middle - 1) if fits else (middle + 1, high)
    return best


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
    prompt = _cut_prompt(ids.prompt, _prompt_limit(ids, config), config, bos_id)
    room = config.max_length - len(prompt)
    if room < 1:
        raise Dropped(
            DropReason.PROMPT_TOO_LONG,
            f"{len(prompt)} tokens of prompt leave no room for an answer in max_length {config.max_length}",
        )
    chosen, rejected = chosen[:room], rejected[:room]
    truncated = ids.truncated
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
    return ids._replace(prompt=prompt, chosen=chosen, rejected=rejected, truncated=truncated)


def _render(pair: Pair, tokenizer: TextTokenizer, config: PreprocessConfig) -> Rendered | Dropped:
    try:
        if config.compat == "trl" and isinstance(pair, ChatPair):
            return Rendered(render_as_trl(pair, needed(tokenizer.chat_template), config))
        return render_pair(pair, tokenizer.chat_template, config)
    except Dropped as dropped:
        return dropped


def _split(encoded: tuple[list[int], ...], rendered: Rendered, tokenizer: TextTokenizer) -> PairIds:
    ids = split_at_boundary(*encoded, has_bos=tokenizer.bos_id is not None)
    if rendered.notes:
        ids = ids._replace(notes=rendered.notes | ids.notes)
    return add_special_tokens(ids, tokenizer)


def _prompt_limit(ids: PairIds, config: PreprocessConfig) -> int:
    """What the longer answer leaves to the prompt of `max_length`, or `max_prompt_length` where that is more."""
    longer = max(len(ids.chosen), len(ids.rejected))
    if config.max_completion_length is not None:
        longer = min(longer, config.max_completion_length)
    return max(config.max_length - longer, config.max_prompt_length)


def _cut_prompt(prompt: list[int], limit: int, config: PreprocessConfig, bos_id: int | None) -> list[int]:
    """At most `limit` tokens of the prompt; its BOS is one of them."""
    if len(prompt) <= limit:
        return prompt
    if config.truncation_side == "keep_start":
        return prompt[:limit]
    head = [bos_id] if bos_id is not None else []
    return head + prompt[len(prompt) - (limit - len(head)) :]


def _with_eos(answer: list[int], tokenizer: TextTokenizer) -> list[int]:
    """The answer with EOS at its end, unless its last token that is not white space ends a turn."""
    for token in reversed(answer):
        if token in (tokenizer.eos_id, tokenizer.end_of_turn_id):
            return answer
        if not tokenizer.is_space(token):
            break
    return [*answer, tokenizer.eos_id]
