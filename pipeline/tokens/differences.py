"""Comparing the two answers of a pair as texts: a difference that hardly anybody sees is hardly a preference."""

import unicodedata
from collections.abc import Sequence
from typing import Any

from oddsmill.pipeline.formats.pairs import NOTHING, Notes, PreferencePair

_HEAD = 64  # characters, which tell nearly all answers apart


def are_written_alike(texts: PreferencePair) -> bool:
    """Says whether chosen and rejected are the same text, perhaps in two forms of Unicode (`é` as one code or two)."""
    if texts.chosen.isascii() and texts.rejected.isascii():
        return texts.chosen == texts.rejected
    return unicodedata.normalize("NFC", texts.chosen) == unicodedata.normalize("NFC", texts.rejected)


def note_differences(texts: PreferencePair) -> Notes:
    """Notes where the answers differ in white space alone, or in upper and lower case alone (and white space)."""
    if _first_letter(texts.chosen) != _first_letter(texts.rejected):
        return NOTHING
    heads = _squeezed(texts.chosen[:_HEAD]).casefold(), _squeezed(texts.rejected[:_HEAD]).casefold()
    size = min(map(len, heads))
    if heads[0][:size] != heads[1][:size]:
        return NOTHING
    chosen, rejected = _squeezed(texts.chosen), _squeezed(texts.rejected)
    if chosen == rejected:
        return Notes.WHITE_SPACE_ALONE
    return Notes.CASE_ALONE if chosen.casefold() == rejected.casefold() else NOTHING


def common_length(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Returns how many ids or characters at their beginning two encodings or texts have in common."""
    size, limit = 0, min(len(first), len(second))
    while size < limit:  # a comparison of many costs hardly more than that of two
        middle = (size + limit + 1) // 2
        if first[size:middle] == second[size:middle]:
            size = middle
        else:
            limit = middle - 1
    return size


def _first_letter(text: str) -> str:
    return text.lstrip()[:1].casefold()[:1]


def _squeezed(text: str) -> str:
    """Returns a text without its white space."""
    return "".join(text.split())
