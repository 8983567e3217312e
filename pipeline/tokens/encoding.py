"""Encoding the texts of pairs: prompt, prompt + chosen and prompt + rejected, many pairs at once."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from oddsmill.pipeline.formats.pairs import Ids, Pair, PairIds, PreferencePair
from oddsmill.pipeline.tokens.rendering import Rendered
from oddsmill.pipeline.tokens.safe_cut import cuts_are_safe, last_safe_cut, safe_pieces
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.engines.flat import FlatIds
from oddsmill.schemas.engines.token_places import TokenPlaces

_PIECE = 100_000  # characters; a longer text is encoded in pieces
Sides = tuple[Ids, Ids, Ids]


class Encoded(NamedTuple):
    """A pair with its texts, and the ids of prompt, prompt + chosen and prompt + rejected."""

    pair: Pair
    rendered: Rendered
    prompt: Ids
    with_chosen: Ids
    with_rejected: Ids

    @property
    def sides(self) -> Sides:
        """Returns the three encodings."""
        return self.prompt, self.with_chosen, self.with_rejected


class Explanation(NamedTuple):
    """The ids of a pair before the length rules, and lines (name, text) that say how they came about."""

    ids: PairIds
    lines: list[tuple[str, str]]


class LengthStep(NamedTuple):
    """The lengths of prompt, chosen and rejected after one length rule."""

    rule: str
    lengths: list[int]


class EncodedTexts(Sequence[Sides]):
    """The ids of the texts of n pairs, and the three encodings of each pair as an item.

    Attributes:
      ids: of all texts.
      starts, lengths: [n, 4] int64, where there are those of a prompt's head, of its tail, of tail + chosen and of
        tail + rejected.
    """

    def __init__(self, ids: Ids, starts: np.ndarray, lengths: np.ndarray):
        self.ids, self.starts, self.lengths = ids, starts, lengths

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, pair: int) -> Sides:  # type: ignore[override]
        bounds = zip(self.starts[pair].tolist(), self.lengths[pair].tolist(), strict=True)
        head, *tails = (self.ids[start : start + length] for start, length in bounds)
        return head + tails[0], head + tails[1], head + tails[2]


def encode_sides(pairs: Sequence[PreferencePair], tokenizer: Tokenizer) -> EncodedTexts:
    """Encodes prompt, prompt + chosen and prompt + rejected of each pair.

    Where the tokenizer allows it, most of a prompt is encoded once (pipeline/tokens/safe_cut.py).
    """
    texts = []
    for prompt, chosen, rejected in pairs:
        cut = cut_of(prompt, tokenizer)
        tail = prompt[cut:]
        texts += [prompt[:cut], tail, tail + chosen, tail + rejected]
    # Pairs share prompts, and prompts ("\n\nAssistant:") their tails: each text is encoded once.
    numbers: dict[str, int] = {}
    of_pairs = np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int64).reshape(-1, 4)
    ids, offsets = _encode_flat(list(numbers), tokenizer)
    bounds = np.array(offsets, np.int64)
    starts = bounds[of_pairs]
    return EncodedTexts(ids, starts, bounds[of_pairs + 1] - starts)


def _encode_flat(texts: list[str], tokenizer: Tokenizer) -> FlatIds:
    """Encodes texts, very long ones in pieces where the tokenizer allows it.

    The whole of a text of megabytes would take 150 times its size, and go to the slower engine.
    """
    longest = max(map(len, texts), default=0)
    if longest <= _PIECE or not _cuts_are_safe(tokenizer):
        return tokenizer.encode_flat(texts)
    pieces = [safe_pieces(text, _PIECE) for text in texts]
    ids, offsets = tokenizer.encode_flat([piece for of_text in pieces for piece in of_text])
    return FlatIds(ids, [offsets[end] for end in accumulate(map(len, pieces), initial=0)])


def cut_of(prompt: str, tokenizer: Tokenizer) -> int:
    """Returns how many characters of a prompt are encoded by themselves; 0 where the tokenizer does not allow it."""
    return last_safe_cut(prompt) if _cuts_are_safe(tokenizer) else 0


def token_starts(text: str, tokenizer: Tokenizer) -> Sequence[int]:
    """Returns the character at which each token of a text begins, ascending."""
    places = _places_of(tokenizer).find(text, _encode_flat([text], tokenizer).ids, None)
    return tokenizer.token_starts(text) if places is None else places.starts.tolist()


def token_ends(text: str, ids: Ids, before: int | None, tokenizer: Tokenizer) -> Sequence[int]:
    """Returns the character after each of the last tokens of a text, ascending.

    Args:
      ids: those of the tokens.
      before: the id of the token before them, if there is one.
    """
    if (places := _places_of(tokenizer).find(text, ids, before)) is not None:
        return places.ends.tolist()
    encoding = tokenizer.core.encode(text, add_special_tokens=False)
    assert encoding.ids[-len(ids) :] == ids.tolist(), "the text has other tokens by itself"
    # Offsets may leave out white space, and of the tokens of one character each has the whole.
    return list(accumulate((end for _, end in encoding.offsets), max))[-len(ids) :]


@lru_cache(maxsize=4)
def _places_of(tokenizer: Tokenizer) -> TokenPlaces:
    return TokenPlaces(tokenizer.core)


@lru_cache(maxsize=4)
def _cuts_are_safe(tokenizer: Tokenizer) -> bool:
    return cuts_are_safe(tokenizer.core)
