"""Many rows out of few: copies, or texts whose words vary as much as those of a dataset of that size would.

A tokenizer that caches words must not look better on copies than it is: where no new word ever comes, all are cached.
"""

import math
import random
import re
from collections.abc import Iterator

from bench.preference_texts import Row

# Words that are exchanged for others of the dataset, so that no long stretch of text comes twice.
EXCHANGED = 0.1
SIDES = ("prompt", "chosen", "rejected")


def repeat(rows: list[Row], count: int) -> list[Row]:
    """Returns `count` rows; each copy of a prompt begins with its own number."""
    repeated = (rows[number % len(rows)] for number in range(count))
    return [row | {"prompt": f"{number // len(rows)}: {row['prompt']}"} for number, row in enumerate(repeated)]


class VariedRows:
    """Draws rows like those of a dataset, as many as are wanted.

    The dataset's rows come over and over. In each copy a tenth of the words are exchanged for words drawn from the
    dataset; and so many for words that never came before (the head of one word and the tail of another) that the
    vocabulary grows with the number of words as in the dataset itself, by Heaps' law. The first copy is the dataset.

    Attributes:
      growth: the exponent of Heaps' law: n words hold about n ** growth different ones.
    """

    def __init__(self, rows: list[Row], *, seed: int = 0):
        self._parts = [{side: re.split(r"(\w+)", row[side]) for side in SIDES} for row in rows]
        self._draw = random.Random(seed)
        self._words = [word for row in self._parts for parts in row.values() for word in parts[1::2]]
        self._vocabulary = sorted(set(self._words))
        half = len(self._words) // 2
        self.growth = math.log2(len(self._vocabulary) / len(set(self._words[:half])))

    def share_of_new_words(self, copy: int) -> float:
        """Returns how many of a copy's words come for the first time, by Heaps' law."""
        share_at_end = self.growth * len(self._vocabulary) / len(self._words)
        return share_at_end * (copy + 0.5) ** (self.growth - 1)

    def take(self, count: int, *, first: int = 0) -> Iterator[Row]:
        """Draws rows; `first` is the number of the first, where others draw those before it."""
        for number in range(first, first + count):
            copy, row = divmod(number, len(self._parts))
            new = self.share_of_new_words(copy) if copy else 0.0
            yield {side: self._vary(parts, new, EXCHANGED * bool(copy)) for side, parts in self._parts[row].items()}

    def _vary(self, parts: list[str], new: float, exchanged: float) -> str:
        random, parts, count = self._draw.random, parts.copy(), len(parts) // 2
        for _ in range(int(count * (new + exchanged) + random())):
            at = 2 * int(count * random()) + 1
            if parts[at - 1].endswith("\n\n") and parts[at + 1].startswith(":"):
                continue  # the name of a speaker
            if random() * (new + exchanged) < new:
                head, tail = self._pick(self._vocabulary), self._pick(self._vocabulary)
                parts[at] = head[: len(head) // 2 + 1] + tail[len(tail) // 2 :]
            else:
                parts[at] = self._pick(self._words)
        return "".join(parts)

    def _pick(self, words: list[str]) -> str:
        return words[int(len(words) * self._draw.random())]  # three times as fast as Random.choice


def vary(rows: list[Row], count: int, *, seed: int = 0) -> list[Row]:
    """Returns `count` rows of `VariedRows`."""
    return list(VariedRows(rows, seed=seed).take(count))
