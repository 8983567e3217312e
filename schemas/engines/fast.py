"""fastokens, which makes the ids that `tokenizers` makes several times faster, of the tokenizers that it supports.

Both read tokenizer.json. Truncation, padding and added special tokens have no part in our ids, so it is loaded without.
"""

import os
import re
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from oddsmill.schemas.engines.byte_sums import sums_of_tokens
from oddsmill.schemas.engines.checked import is_of_library
from oddsmill.schemas.engines.flat import FlatIds
from oddsmill.schemas.errors import one_line

if TYPE_CHECKING:
    import fastokens

# tokenizers gives a pattern ten million steps at one place of a text and fails then; fastokens has other limits. A text
# so long never needs that many for a pattern without repeats or choices in repeats, whose steps grow with the length.
LONGEST_TEXT = 1_000_000
_NOT_OF_IDS = ("truncation", "padding", "post_processor", "decoder")
_OFF = ("", "off", "false", "f", "no", "n", "0")  # as tokenizers reads TOKENIZERS_PARALLELISM
_ATOMS = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\((?:\?(?:[a-z-]*:|<?[=!]))?|\{\d+,\}|.", re.DOTALL)


class Unusable(Exception):
    """fastokens cannot encode for a tokenizer. The message says why, as the end of a sentence about fastokens."""


class FastEngine:
    """The encoder of fastokens for one tokenizer.

    Attributes:
      sums: the byte sum of each token, as `sums_of_tokens` returns them.
    """

    def __init__(self, content: bytes):
        """Loads it.

        Args:
          content: a tokenizer.json with all added tokens.

        Raises:
          Unusable: fastokens is not installed, or does not take this tokenizer.
        """
        if find_spec("fastokens") is None:
            raise Unusable("is not installed")
        loaded = _load(_needed(content))
        if isinstance(loaded, str):
            raise Unusable(loaded)
        self._core, self.sums = loaded

    def encode_flat(self, texts: Sequence[str]) -> FlatIds:
        """Encodes texts, with no special token added.

        Raises:
          ValueError: a text is beyond a limit. Whatever else the library raises passes too, panics among it.
        """
        if max(map(len, texts), default=0) > LONGEST_TEXT:
            raise ValueError(f"a text of more than {LONGEST_TEXT} characters")
        id_bytes, offset_bytes = self._core.encode_batch_flat(list(texts))
        ids, offsets = array("i"), array("Q")
        ids.frombytes(id_bytes)
        offsets.frombytes(offset_bytes)
        return FlatIds(ids, offsets.tolist())


class _Loaded(NamedTuple):
    core: "fastokens.Tokenizer"
    sums: np.ndarray


@lru_cache(maxsize=2)
def _needed(content: bytes) -> bytes:
    """Returns a tokenizer.json without what ids do not depend on, in which that of a run and its copy may differ."""
    import orjson

    try:
        settings = orjson.loads(content)
    except ValueError as error:
        raise Unusable(f"does not take this tokenizer ({one_line(error)})") from error
    kept = {name: part for name, part in settings.items() if name not in _NOT_OF_IDS}
    return orjson.dumps(kept | dict.fromkeys(_NOT_OF_IDS))


@lru_cache(maxsize=1)
def _load(content: bytes) -> _Loaded | str:
    """Loads a tokenizer once a process, which takes a second; returns why it is unusable, if it is."""
    import fastokens
    import orjson

    settings = orjson.loads(content)
    for pattern in _patterns([settings.get("normalizer"), settings.get("pre_tokenizer")]):
        if steps_may_explode(pattern):
            return f"may need other steps than tokenizers for the pattern {pattern!r}"
    _share_threads()
    try:
        core = fastokens.Tokenizer.from_json_str(content.decode())
    except BaseException as error:
        if not is_of_library(error):
            raise
        return f"does not take this tokenizer ({one_line(error)})"
    return _Loaded(core, sums_of_tokens(settings))


def _share_threads() -> None:
    """Gives fastokens the threads that the settings of tokenizers allow. It reads its own as it encodes first."""
    if os.environ.get("TOKENIZERS_PARALLELISM", "true").lower() in _OFF:
        os.environ.setdefault("RAYON_NUM_THREADS", "1")
    if threads := os.environ.get("RAYON_NUM_THREADS"):
        os.environ.setdefault("FASTOKENS_BPE_THREADS", threads)


def _patterns(settings: Any) -> Iterator[str]:
    """Yields the regular expressions in a part of tokenizer.json."""
    if isinstance(settings, dict):
        if isinstance(settings.get("Regex"), str):
            yield settings["Regex"]
        settings = list(settings.values())
    if isinstance(settings, list):
        for each in settings:
            yield from _patterns(each)


def steps_may_explode(pattern: str) -> bool:
    """Tells whether a group that repeats holds a part that repeats, or a choice: steps may grow exponentially.

    `(a+)+c` and `(a|b|ab)*c` are such patterns.
    """
    open_groups, closed = [False], False
    for atom in _ATOMS.findall(pattern):
        if atom in ("*", "+") or (atom[0] == "{" and atom[-2:] == ",}"):
            if closed:
                return True
            open_groups[-1] = True
        elif atom == "|":
            open_groups[-1] = True
        closed = False
        if atom[0] == "(":
            open_groups.append(False)
        elif atom == ")" and len(open_groups) > 1:
            closed = open_groups.pop()
            open_groups[-1] |= closed
    return False
