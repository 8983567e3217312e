import json
import os
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.engines import fast
from oddsmill.schemas.engines.fast import FastEngine, Unusable, steps_may_explode


@pytest.mark.parametrize(
    ("pattern", "may_explode"),
    [
        (r"(a+)+c", True),
        (r"(?:a+b?)*", True),
        (r"((a+)b)+", True),
        (r"(\p{L}{2,})+", True),
        (r"(?<=x)(?i:a|b*)+?", True),
        (r"(?:\r?\n)+", False),
        (r"[(a+)]+", False),
        (r"\(a+\)+", False),
        (r"(?:a|b|ab)*c", True),
        (r"((a|b)c)+", True),
        (r"(?:[a|b]c)+\|", False),
        (r"(a+)b+", False),
        (r"(?i:'s|'t)?\p{L}+|\s+(?!\S)", False),
    ],
)
def test_patterns_with_repeats_or_choices_in_repeats_are_told(pattern: str, may_explode: bool):
    assert steps_may_explode(pattern) == may_explode


def altered(folder: Path, **settings: object) -> bytes:
    return json.dumps(json.loads((folder / "tokenizer.json").read_text()) | settings).encode()


def test_settings_that_no_ids_of_ours_depend_on_have_no_effect(tokenizer_folder: Path):
    truncation = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": 8, "pad_id": 0, "pad_type_id": 0}
    other = {"type": "Unheard"}
    content = altered(
        tokenizer_folder,
        truncation=truncation,
        padding=padding | {"pad_token": "<pad>"},
        post_processor=other,
        decoder=other,
    )
    texts = ["one two three four five", "", "</s> six"]
    expected = Tokenizer(tokenizer_folder).encode_flat(texts)
    own, other = FastEngine((tokenizer_folder / "tokenizer.json").read_bytes()), FastEngine(content)
    assert other.encode_flat(texts) == expected and len(expected.ids) > 12
    assert other._core is own._core  # so it is not loaded again


def test_what_tokenizers_may_refuse_is_left_to_it(tokenizer_folder: Path):
    pattern = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    with pytest.raises(Unusable, match=r"may need other steps than tokenizers for the pattern '\(a\+\)\+\$'"):
        FastEngine(altered(tokenizer_folder, pre_tokenizer={"type": "Sequence", "pretokenizers": [pattern]}))
    with pytest.raises(ValueError, match="more than 1000000 characters"):
        FastEngine((tokenizer_folder / "tokenizer.json").read_bytes()).encode_flat(["a", "b" * 1_000_001])


class PanicException(BaseException):
    """The class of this name is what Rust raises."""


def test_a_panic_while_it_loads_says_that_it_cannot_be_used(tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch):
    panics = Mock(Tokenizer=Mock(from_json_str=Mock(side_effect=PanicException("index out of bounds"))))
    monkeypatch.setitem(sys.modules, "fastokens", panics)
    monkeypatch.setattr(fast, "find_spec", lambda name: panics)
    fast._load.cache_clear()
    with pytest.raises(Unusable, match=r"^does not take this tokenizer \(index out of bounds\)$"):
        FastEngine((tokenizer_folder / "tokenizer.json").read_bytes())
    fast._load.cache_clear()


def test_without_the_library_it_cannot_be_used(tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch):
    fast._load.cache_clear()
    monkeypatch.setattr(fast, "find_spec", lambda name: None)
    with pytest.raises(Unusable, match=r"^is not installed$"):
        FastEngine((tokenizer_folder / "tokenizer.json").read_bytes())


@pytest.mark.parametrize(
    ("given", "threads"),
    [
        ({}, None),
        ({"TOKENIZERS_PARALLELISM": "true"}, None),
        ({"TOKENIZERS_PARALLELISM": "False"}, "1"),
        ({"RAYON_NUM_THREADS": "3"}, "3"),
        ({"TOKENIZERS_PARALLELISM": "0", "FASTOKENS_BPE_THREADS": "2"}, "2"),
    ],
)
def test_threads_are_those_that_the_settings_of_tokenizers_allow(
    given: dict[str, str], threads: str | None, monkeypatch: pytest.MonkeyPatch
):
    for name in ("TOKENIZERS_PARALLELISM", "RAYON_NUM_THREADS", "FASTOKENS_BPE_THREADS"):
        monkeypatch.setenv(name, "")  # so that what the call sets is taken back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    fast._share_threads()
    assert os.environ.get("FASTOKENS_BPE_THREADS") == threads
