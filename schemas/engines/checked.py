"""fastokens with `tokenizers` beside it, which encodes what fastokens cannot, and some texts again as a check."""

import zlib
from collections.abc import Sequence
from itertools import zip_longest
from typing import Protocol

import numpy as np

from oddsmill.schemas.engines.byte_sums import sum_agrees, sum_differs
from oddsmill.schemas.engines.flat import FlatIds, flatten
from oddsmill.schemas.errors import RunFailed
from oddsmill.schemas.text.printable import printable_json

PANIC = "PanicException"  # what Rust raises, of a pattern that needs too many steps for example
BATCHES_A_CHECK = 1000
_TEXTS_OF_FIRST = 16
_AROUND = 40  # characters and ids that a message quotes on each side of a difference


class Reference(Protocol):
    """The tokenizer of the `tokenizers` library, whose ids are right by definition."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

    def token_starts(self, text: str) -> list[int]: ...


class Engine(Protocol):
    """A faster encoder; `sums` are the byte sums of its tokens."""

    sums: np.ndarray

    def encode_flat(self, texts: Sequence[str]) -> FlatIds: ...


def is_of_library(error: BaseException) -> bool:
    """Tells whether a library may have raised an error because of what it was given; a panic is no `Exception`."""
    return isinstance(error, Exception) or type(error).__name__ == PANIC


class CheckedEngine:
    """An engine whose ids are those of the reference, or the run ends.

    The texts of a batch that the engine fails on are encoded by the reference, which raises what there is to raise.
    Both encode the first texts of a process, one batch in a thousand, chosen by a hash of its texts, and every text
    whose byte sum differs.
    """

    def __init__(self, engine: Engine, reference: Reference, *, prefix: str | None, share: int = BATCHES_A_CHECK):
        """Puts an engine beside its reference.

        Args:
          prefix: what the tokenizer writes before each text; None where byte sums do not hold.
          share: one batch in so many is encoded by both.
        """
        self._engine, self._reference, self._prefix, self._share = engine, reference, prefix, share
        self._is_first = True

    def encode_flat(self, texts: Sequence[str]) -> FlatIds:
        """Encodes texts.

        Raises:
          RunFailed: the engine gives other ids for a text than the reference.
        """
        try:
            flat = self._engine.encode_flat(texts)
        except BaseException as error:
            if isinstance(error, MemoryError) or not is_of_library(error):
                raise
            return flatten(self._reference.encode_batch(texts))
        if suspects := self._suspects(texts, flat):
            compare(flat, texts, self._reference, suspects)
        return flat

    def _suspects(self, texts: Sequence[str], flat: FlatIds) -> Sequence[int]:
        """Returns the numbers of the texts that both encode."""
        prefix = self._prefix or ""
        content = b"".join([(prefix + text if text else "").encode() for text in texts])
        if (checksum := zlib.adler32(content)) % self._share == 0:
            return range(len(texts))
        suspects: list[int] = []
        if self._is_first:
            self._is_first = False
            suspects += range(min(len(texts), _TEXTS_OF_FIRST))
        if self._prefix is not None and not sum_agrees(content, checksum, flat.ids, self._engine.sums):
            suspects += sum_differs(texts, flat, self._engine.sums, prefix)
        return suspects


def compare(flat: FlatIds, texts: Sequence[str], reference: Reference, numbers: Sequence[int]) -> None:
    """Compares ids with those of the reference.

    Args:
      numbers: the numbers of the texts that are compared.

    Raises:
      RunFailed: those of a text differ.
    """
    for number, expected in zip(numbers, reference.encode_batch([texts[each] for each in numbers]), strict=True):
        if (found := flat.of(number)) != expected:
            raise RunFailed(
                f"{describe_difference(texts[number], found, expected, reference)}; run again with "
                "--tokenizer_engine=tokenizers, and please report this"
            )


def describe_difference(text: str, found: list[int], expected: list[int], reference: Reference) -> str:
    """Says on one line where two engines differ, for people."""
    place = next(n for n, (one, other) in enumerate(zip_longest(found, expected)) if one != other)
    begin = dict(enumerate(reference.token_starts(text))).get(place, len(text))
    excerpt = text[max(0, begin - _AROUND) : begin + _AROUND]
    before, after = "…" * (begin > _AROUND), "…" * (begin + _AROUND < len(text))
    return (
        f"fastokens gives other ids than tokenizers for the text {before}{printable_json(excerpt)}{after} from its "
        f"token {place} on, character {begin}: {_few(found, place)}, not {_few(expected, place)}"
    )


def _few(ids: list[int], place: int) -> str:
    few = ids[place : place + 5]
    return f"{few}{' …' if len(ids) > place + 5 else ''}"
