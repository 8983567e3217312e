"""From a pair to its ids: the boundary, BOS and EOS. Pure functions.

In this order: the prompt's ids are what prompt, prompt + chosen and prompt + rejected have in common; BOS once
at the head; EOS once at the end of each answer; then the length rules (pipeline/tokens/length_rules.py).
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import NamedTuple

from oddsmill.pipeline.config import DatasetSettings
from oddsmill.pipeline.drops import Dropped, DropReason
from oddsmill.pipeline.formats import trl_rules
from oddsmill.pipeline.formats.pairs import NOTHING, ChatPair, Message, Notes, Pair, PairIds, PreferencePair
from oddsmill.pipeline.tokens.length_rules import fit, shorten_dialogue
from oddsmill.pipeline.tokens.rendering import (
    Rendered,
    needed,
    render_as_trl,
    render_messages,
    render_pair,
    template_options,
)
from oddsmill.pipeline.tokens.safe_cut import cuts_are_safe, last_safe_cut
from oddsmill.schemas.chat.tokenizer import Tokenizer


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


def tokenize_batch(pairs: Sequence[Pair], tokenizer: Tokenizer, config: DatasetSettings) -> Iterator[PairIds | Dropped]:
    """Tokenizes pairs, all their texts in one call: the tokenizer spreads a call over the cores.

    Raises:
      Refused: a pair holds messages and the tokenizer has no chat template.
    """
    for encoded in encode_pairs(pairs, tokenizer, config):
        try:
            yield encoded if isinstance(encoded, Dropped) else finish(encoded, tokenizer, config)
        except Dropped as dropped:
            yield dropped


def encode_pairs(pairs: Sequence[Pair], tokenizer: Tokenizer, config: DatasetSettings) -> Iterator[Encoded | Dropped]:
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


def finish(encoded: Encoded, tokenizer: Tokenizer, config: DatasetSettings) -> PairIds:
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
        ids = _shorten(encoded.pair, ids, tokenizer, config)
    return fit(ids, config, bos_id=tokenizer.bos_id)


def encode_sides(pairs: Sequence[PreferencePair], tokenizer: Tokenizer) -> Iterator[tuple[list[int], ...]]:
    """The ids of prompt, prompt + chosen and prompt + rejected of each pair.

    Where the tokenizer allows it, the most part of a prompt is encoded once (pipeline/tokens/safe_cut.py).
    """
    texts = []
    for prompt, chosen, rejected in pairs:
        cut = last_safe_cut(prompt) if _cuts_are_safe(tokenizer) else 0
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


def add_special_tokens(ids: PairIds, tokenizer: Tokenizer) -> PairIds:
    """BOS before the prompt and EOS after each answer, each only where it does not stand already."""
    return ids._replace(
        prompt=tokenizer.with_bos(ids.prompt),
        chosen=_with_eos(ids.chosen, tokenizer),
        rejected=_with_eos(ids.rejected, tokenizer),
    )


def _render(pair: Pair, tokenizer: Tokenizer, config: DatasetSettings) -> Rendered | Dropped:
    try:
        if config.compat == "trl" and isinstance(pair, ChatPair):
            return Rendered(render_as_trl(pair, needed(tokenizer.chat_template), config))
        return render_pair(pair, tokenizer.chat_template, config)
    except Dropped as dropped:
        return dropped


def _shorten(pair: ChatPair, ids: PairIds, tokenizer: Tokenizer, config: DatasetSettings) -> PairIds:
    prompt, chosen, rejected = pair.messages()
    template, options = needed(tokenizer.chat_template), template_options(pair, config)

    def encode(messages: list[Message]) -> PairIds:
        rendered = render_messages(messages, chosen, rejected, template, options)
        return _split(next(encode_sides([rendered.texts], tokenizer)), rendered, tokenizer)

    return shorten_dialogue(prompt, ids, encode, tokenizer.token_starts, config)


def _split(encoded: tuple[list[int], ...], rendered: Rendered, tokenizer: Tokenizer) -> PairIds:
    ids = split_at_boundary(*encoded, has_bos=tokenizer.bos_id is not None)
    if rendered.notes:
        ids = ids._replace(notes=rendered.notes | ids.notes)
    return add_special_tokens(ids, tokenizer)


@lru_cache(maxsize=4)
def _cuts_are_safe(tokenizer: Tokenizer) -> bool:
    return cuts_are_safe(tokenizer.core)


def _with_eos(answer: list[int], tokenizer: Tokenizer) -> list[int]:
    """The answer with EOS at its end, unless its last token that is not white space ends a turn."""
    for token in reversed(answer):
        if token in tokenizer.answer_ends:
            return answer
        if not tokenizer.is_space(token):
            break
    return [*answer, tokenizer.eos_id]
