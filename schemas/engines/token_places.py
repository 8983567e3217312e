"""The places of tokens in their text, told by the bytes that they stand for.

An encoder that keeps offsets takes ten times as long as one that makes ids alone. But the bytes of a text are those of
its tokens, one after another, where a tokenizer is byte-level or made of SentencePiece's. What is not so (a text that a
normalizer alters, a tokenizer of another kind) is left to the encoder.
"""

import json
import re
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from oddsmill.schemas.engines.byte_sums import token_bytes

if TYPE_CHECKING:
    import tokenizers

_SENTENCEPIECE = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]


class Places(NamedTuple):
    """The characters at which tokens begin and end, [n] int64. Tokens of one character have the whole of it each."""

    starts: np.ndarray
    ends: np.ndarray


class TokenPlaces:
    """Finds the places that the encoder of the `tokenizers` library gives as offsets."""

    def __init__(self, core: "tokenizers.Tokenizer"):
        """Looks at what a tokenizer does to a text."""
        normalizer, pre_tokenizer, processor = map(_state, (core.normalizer, core.pre_tokenizer, core.post_processor))
        parts = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
        is_byte_level = normalizer in ({}, {"type": "NFC"}) and any(part.get("type") == "ByteLevel" for part in parts)
        self._has_prefix = normalizer.get("normalizers") == _SENTENCEPIECE and not pre_tokenizer
        added = core.get_added_tokens_decoder()
        self._added = {id_: token.content.encode() for id_, token in added.items()}
        self._stripping = {id_ for id_, token in added.items() if token.rstrip}
        # Some leave out the spaces that a token begins and ends with (GPT-NeoX), but not the one that may be added.
        trimming = [part for part in processor.get("processors", [processor]) if part.get("trim_offsets")]
        self._trims = bool(trimming)
        self._keeps_first = self._trims and trimming[0]["add_prefix_space"]
        self._is_known = (
            (is_byte_level or self._has_prefix)
            and not any(part.get("add_prefix_space") for part in parts)
            and not any(token.lstrip or (token.normalized and self._has_prefix) for token in added.values())
            and len(trimming) < 2
            and not (self._trims and any(re.search(r"[^\S ]", token.content) for token in added.values()))
        )

        @cache
        def bytes_of(token_id: int) -> bytes:
            return self._added.get(token_id) or token_bytes(core.id_to_token(token_id) or "", is_byte_level)

        self._bytes_of = bytes_of

    def find(self, text: str, ids: Sequence[int], before: int | None) -> Places | None:
        """Returns the places of the last tokens of a text; None where bytes do not tell them.

        Args:
          ids: those of the tokens.
          before: the id of the token before them; None where they are all of the text's.
        """
        content = text.encode()
        pieces = self._pieces(content, ids, before) if self._is_known else None
        joined = b"".join(pieces or ())
        begin = len(content) - len(joined)
        if pieces is None or not content.endswith(joined) or (before is None and begin):
            return None
        bounds = np.fromiter(accumulate(map(len, pieces), initial=begin), np.int64, len(pieces) + 1)
        starts, ends = bounds[:-1], bounds[1:]
        if not text.isascii():
            # The number of characters that begin before each byte, and before the end.
            begun = np.cumsum(np.frombuffer(b"\x80" + content, np.uint8) & 0xC0 != 0x80)
            starts, ends = begun[np.minimum(starts + 1, len(content))] - 1, begun[ends]
        if self._has_prefix:
            ends = np.maximum(ends, starts + 1)  # it lies where the first character does
        if self._trims:
            at_start = np.array([len(piece) - len(piece.lstrip(b" ")) for piece in pieces], np.int64)
            at_end = np.array([len(piece) - len(piece.rstrip(b" ")) for piece in pieces], np.int64)
            is_kept = self._keeps_first & (starts == 0) & (at_start == 1)
            starts = np.minimum(starts + np.where(is_kept, 0, at_start), ends)
            ends = np.maximum(ends - at_end, starts)
        return Places(starts, ends)

    def _pieces(self, content: bytes, ids: Sequence[int], before: int | None) -> list[bytes] | None:
        """Returns the part of a text that each token stands for."""
        pieces = list(map(self._bytes_of, ids))
        if not self._has_prefix and not self._stripping:
            return pieces
        end = len(content)
        for place in reversed(range(len(ids))):
            if ids[place] in self._stripping:  # it takes the white space behind it
                pieces[place] += content[len(content[:end].rstrip()) : end]
            elif self._has_prefix and ids[place] not in self._added:
                previous = ids[place - 1] if place else before
                if previous is None or previous in self._added:  # a space was written before the text that begins here
                    if not pieces[place].startswith(b" "):
                        return None
                    pieces[place] = pieces[place][1:]
            end -= len(pieces[place])
        return pieces


def _state(part: Any) -> dict[str, Any]:
    """Returns a part of a tokenizer as tokenizer.json has it; nothing of one that there is not."""
    state: dict[str, Any] = json.loads(part.__getstate__()) if part is not None else {}
    return state
