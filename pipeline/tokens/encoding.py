"""Encoding the texts of pairs: prompt, prompt + chosen and prompt + rejected, many pairs at once."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from oddsmill.pipeline.formats.pairs import Ids, Pair, PairIds, PreferencePair
from oddsmill.pipeline.tokens.rendering import Rendered
from oddsmill.pipeline.tokens.safe_cut import cuts_are_safe, last_safe_cut, safe_pieces
from oddsmill.schemas.chat.tokenizer import Tokenizer

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


def encode_sides(pairs: Sequence[PreferencePair], tokenizer: Tokenizer) -> Iterator[Sides]:
    """Encodes prompt, prompt + chosen and prompt + rejected of each pair.

    Where the tokenizer allows it, most of a prompt is encoded once (pipeline/tokens/safe_cut.py).
    """
    texts = []
    for prompt, chosen, rejected in pairs:
        cut = cut_of(prompt, tokenizer)
        tail = prompt[cut:]
        texts += [prompt[:cut], tail, tail + chosen, tail + rejected]
    # Pairs share prompts, and prompts ("\n\nAssistant:") their tails: each text is encoded once.
    distinct = list(dict.fromkeys(texts))
    ids, offsets = tokenizer.encode_flat(distinct)
    ids_of = {text: ids[start:end] for text, (start, end) in zip(distinct, pairwise(offsets), strict=True)}
    encoded = map(ids_of.__getitem__, texts)
    for head, *tails in zip(encoded, encoded, encoded, encoded, strict=True):
        yield head + tails[0], head + tails[1], head + tails[2]


def cut_of(prompt: str, tokenizer: Tokenizer) -> int:
    """Returns how many characters of a prompt are encoded by themselves; 0 where the tokenizer does not allow it."""
    return last_safe_cut(prompt) if _cuts_are_safe(tokenizer) else 0


def common_length(first: Ids, second: Ids) -> int:
    """Returns how many ids at their beginning two encodings have in common."""
    size, limit = 0, min(len(first), len(second))
    while size < limit:  # a comparison of many ids costs hardly more than that of two
        middle = (size + limit + 1) // 2
        if first[size:middle] == second[size:middle]:
            size = middle
        else:
            limit = middle - 1
    return size


def token_starts(text: str, tokenizer: Tokenizer) -> "Sequence[int] | TokenStarts":
    """Returns the character at which each token of a text begins, ascending."""
    return TokenStarts(text, tokenizer) if _cuts_are_safe(tokenizer) else tokenizer.token_starts(text)


class TokenStarts:
    """The character at which each token of a text begins, for those few that are looked up.

    To tell where tokens lie takes an encoding that is many times slower than one of ids alone. So the text is cut
    into pieces (pipeline/tokens/safe_cut.py), their tokens are counted, and only the piece that holds a token is
    encoded in the slow way.
    """

    def __init__(self, text: str, tokenizer: Tokenizer, *, size: int = 256):
        self._tokenizer, self._pieces = tokenizer, safe_pieces(text, size)
        self._counts = tokenizer.encode_flat(self._pieces).offsets

    def __len__(self) -> int:
        return self._counts[-1]

    def __getitem__(self, index: int) -> int:
        piece = bisect_right(self._counts, index) - 1
        first = max(0, piece - 1)  # the piece before goes with it: the first token of a text may lose its white space
        starts = self._tokenizer.token_starts("".join(self._pieces[first : piece + 1]))
        return sum(map(len, self._pieces[:first])) + starts[index - self._counts[first]]


@lru_cache(maxsize=4)
def _cuts_are_safe(tokenizer: Tokenizer) -> bool:
    return cuts_are_safe(tokenizer.core)
