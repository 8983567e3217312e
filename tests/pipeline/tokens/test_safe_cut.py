"""A prompt that is cut and encoded in parts has the ids of the whole."""

import gzip
import json
from array import array
from functools import cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from oddsmill.pipeline.formats.pairs import PreferencePair
from oddsmill.pipeline.tokens.encoding import encode_sides
from oddsmill.pipeline.tokens.safe_cut import cuts_are_safe, last_safe_cut
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.schemas.chat.tokenizer import Tokenizer

ROOT = Path(__file__).parents[3]
GOLDEN = ["gpt2ish-boseqeos", "llama3ish-bos", "qwen2ish-nobos", "tiny-bos", "tiny-nobos", "spmish-bos"]
REAL = ["qwen2", "llama-3", "minimind-chatml", "phi-3-mini"]
NOT_SAFE = {"spmish-bos", "phi-3-mini"}


def folder_of(shared, name):
    return shared / ("golden" if name in GOLDEN else "data") / "tokenizers" / name


def whole(pair, tokenizer):
    """The definition: three whole strings."""
    prompt, chosen, rejected = pair
    return tuple(array("i", tokenizer.encode(text)) for text in (prompt, prompt + chosen, prompt + rejected))


@pytest.mark.parametrize(
    ("text", "head"),
    [
        ("Human: Hi there?\n\nAssistant:", "Human: Hi"),
        ("what is\nit", "what is"),
        ("no-cut!", ""),
        ("a b", "a"),
        ("é è", ""),
        ("", ""),
        ("ends here ", "ends here"),
    ],
)
def test_the_cut_is_after_a_letter_or_digit_and_before_white_space(text, head):
    assert text[: last_safe_cut(text)] == head


@pytest.mark.parametrize("name", GOLDEN + REAL)
def test_on_real_text_the_ids_are_those_of_the_definition(shared, name):
    tokenizer = load_tokenizer(folder_of(shared, name))
    assert cuts_are_safe(tokenizer.core) == (name not in NOT_SAFE)
    lines = gzip.decompress((shared / "golden" / "tokenization" / "rows.jsonl.gz").read_bytes()).decode().split("\n")
    rows = [json.loads(line) for line in lines if line]
    pairs = [PreferencePair(row["prompt"], row["chosen"], row["rejected"]) for row in rows]
    cuts = sum(last_safe_cut(pair.prompt) > 0 for pair in pairs)
    assert cuts > 100
    assert list(encode_sides(pairs, tokenizer)) == [whole(pair, tokenizer) for pair in pairs]


@cache
def tiny() -> Tokenizer:
    return load_tokenizer(ROOT / "recipes" / "tiny" / "tokenizer")


PIECES = st.sampled_from(
    ["a", "word", " ", "  ", "\n", "\n\n", "\r\n", "\t", "1", "42", "'s", "'S", "!", "?", "é", "e\u0301", "\u0301",
     "語", "<s>", "</s>", "<|im_end|>", "<|eot_id|>", "\u00a0", "\u2028", "_", "-", "🙂", "\u017f", "\u2167"]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=20)


@pytest.mark.properties
@given(prompt=TEXTS, chosen=TEXTS, rejected=TEXTS)
def test_on_any_text_the_ids_are_those_of_the_definition(prompt, chosen, rejected):
    pair = PreferencePair(prompt, chosen, rejected)
    assert cuts_are_safe(tiny().core)
    assert next(iter(encode_sides([pair], tiny()))) == whole(pair, tiny())


@pytest.mark.properties
@pytest.mark.parametrize("name", ["llama-3", "qwen2"])
def test_on_any_text_the_patterns_of_llama_and_qwen_hold_too(shared, name):
    tokenizer = load_tokenizer(folder_of(shared, name))

    @given(prompt=TEXTS, chosen=TEXTS, rejected=TEXTS)
    def same(prompt, chosen, rejected):
        pair = PreferencePair(prompt, chosen, rejected)
        assert next(iter(encode_sides([pair], tokenizer))) == whole(pair, tokenizer)

    same()


def byte_level(**changes):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **changes})
    return tokenizer


def test_a_tokenizer_for_which_it_cannot_be_shown_is_not_cut():
    assert cuts_are_safe(byte_level())
    assert not cuts_are_safe(byte_level(add_prefix_space=True))
    assert not cuts_are_safe(byte_level(use_regex=False))
    for part, value in (
        ("normalizer", normalizers.Lowercase()),
        ("pre_tokenizer", pre_tokenizers.Metaspace()),
        ("pre_tokenizer", pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel()])),
        ("model", models.BPE(dropout=0.1)),
        ("model", models.WordLevel({"a": 0}, unk_token="a")),
    ):
        tokenizer = byte_level()
        setattr(tokenizer, part, value)
        assert not cuts_are_safe(tokenizer), part
    for flags in ({"lstrip": True}, {"rstrip": True}, {"single_word": True}):
        tokenizer = byte_level()
        tokenizer.add_special_tokens([AddedToken("<x>", **flags)])
        assert not cuts_are_safe(tokenizer), flags
    tokenizer = byte_level()
    tokenizer.add_special_tokens([AddedToken("two words")])
    assert not cuts_are_safe(tokenizer)
