"""Safe cuts: a text cut there and encoded in parts gives the ids of the whole.

A prompt is encoded three times by definition: alone and before each answer. With a safe cut near its end, its head is
encoded once, and only its tail three times.

The cut: after an ASCII letter or digit, before a space, tab or line feed. Why the ids are those of the whole, for the
tokenizers that `cuts_are_safe` admits:

- Added tokens: none holds white space, strips it or looks at its neighbours, so no match spans the cut or depends on
  what is behind it.
- NFC: neither side of the cut composes with the other or changes places with it.
- Pre-tokenizer: in the patterns below, a run that ends in an ASCII letter or digit ends before white space, whatever
  follows, and no alternative looks back; so the cut is a boundary, and matching goes on there as at a text's beginning.
- BPE without dropout works on each piece between boundaries alone.
"""

import json
import re
from itertools import pairwise
from typing import Any

import tokenizers

_CUT = re.compile(r"[A-Za-z0-9](?=[ \t\n])")
_LAST_CUT = re.compile(rf".*{_CUT.pattern}", re.DOTALL)
# Of Llama 3 and of Qwen 2; that of GPT-2 is built into the ByteLevel pre-tokenizer (use_regex).
_PATTERNS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in (r"\p{N}{1,3}", r"\p{N}")
}


def last_safe_cut(text: str) -> int:
    """Returns the last index at which the text may be cut; 0 where there is none."""
    match = _LAST_CUT.match(text)
    return match.end() if match else 0


def safe_pieces(text: str, size: int) -> list[str]:
    """Cuts a text into pieces of `size` characters, each as much longer as the next safe cut is away."""
    cuts = [0]
    while match := _CUT.search(text, cuts[-1] + size):
        cuts.append(match.end())
    return [text[start:end] for start, end in pairwise([*cuts, len(text)])]


def cuts_are_safe(tokenizer: tokenizers.Tokenizer) -> bool:
    """Returns whether the reasons above hold for a tokenizer; false where they cannot be shown to hold."""
    added = tokenizer.get_added_tokens_decoder().values()
    return (
        isinstance(tokenizer.model, tokenizers.models.BPE)
        and not tokenizer.model.dropout
        and (tokenizer.normalizer is None or _state(tokenizer.normalizer) == {"type": "NFC"})
        and tokenizer.pre_tokenizer is not None
        and _is_known(_state(tokenizer.pre_tokenizer))
        and not any(
            token.lstrip or token.rstrip or token.single_word or re.search(r"\s", token.content) for token in added
        )
    )


def _is_known(pre_tokenizer: dict[str, Any]) -> bool:
    if pre_tokenizer["type"] == "ByteLevel":
        return bool(pre_tokenizer["use_regex"]) and not pre_tokenizer["add_prefix_space"]
    parts = pre_tokenizer.get("pretokenizers", [])
    if pre_tokenizer["type"] != "Sequence" or [part["type"] for part in parts] != ["Split", "ByteLevel"]:
        return False
    split, byte_level = parts
    return (
        split["pattern"].get("Regex") in _PATTERNS
        and (split["behavior"], split["invert"]) == ("Isolated", False)
        and not byte_level["use_regex"]
        and not byte_level["add_prefix_space"]
    )


def _state(part: Any) -> dict[str, Any]:
    """Returns a part of a tokenizer as tokenizer.json has it."""
    state: dict[str, Any] = json.loads(part.__getstate__())
    return state
