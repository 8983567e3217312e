from array import array
from itertools import takewhile
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from oddsmill.pipeline.formats.pairs import PreferencePair
from oddsmill.pipeline.tokens.encoding import TokenStarts, common_length, encode_sides, token_starts
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer


def test_a_pair_is_encoded_as_three_whole_texts(tokenizer_folder: Path):
    tokenizer = load_tokenizer(tokenizer_folder)
    pair = PreferencePair("Tell me a story about a cat.", " Once there was a cat.", " No.")
    (encoded,) = encode_sides([pair], tokenizer)
    texts = (pair.prompt, pair.prompt + pair.chosen, pair.prompt + pair.rejected)
    assert [ids.tolist() for ids in encoded] == [tokenizer.encode(text) for text in texts]


def test_a_text_that_pairs_share_is_encoded_once(tokenizer_folder: Path, monkeypatch):
    tokenizer = load_tokenizer(tokenizer_folder)
    encoded: list[str] = []
    encode_flat = tokenizer.encode_flat
    monkeypatch.setattr(tokenizer, "encode_flat", lambda texts: encoded.extend(texts) or encode_flat(texts))
    pairs = [
        PreferencePair("How do I bake bread?", answer, " No.") for answer in (" Mix flour.", " Wait.", " Mix flour.")
    ]
    first, second, third = encode_sides(pairs, tokenizer)
    assert len(encoded) == len(set(encoded))
    assert first == third != second
    assert tokenizer.decode(second[1]) == "How do I bake bread? Wait."


@settings(deadline=None)
@given(common=st.lists(st.integers(0, 2)), ends=st.tuples(*[st.lists(st.integers(0, 2))] * 2))
def test_the_common_length_is_that_of_the_common_prefix(common: list[int], ends: tuple[list[int], list[int]]):
    first, second = (common + end for end in ends)
    alike = takewhile(lambda both: both[0] == both[1], zip(first, second, strict=False))
    assert common_length(array("i", first), array("i", second)) == len(list(alike))


PIECES = st.sampled_from(
    [
        "a",
        "word",
        " ",
        "  ",
        "\n",
        "\t",
        "1",
        "42 ",
        "'s",
        "!",
        "é",
        "e\u0301",
        "語",
        "👍🏽",
        "<s>",
        "<|im_end|>",
        "\u00a0",
    ]
)


@pytest.mark.parametrize("trims", [False, True])
def test_tokens_that_are_looked_up_lie_where_an_encoding_of_the_whole_text_has_them(trims: bool):
    """A tokenizer may leave white space out of where a token lies, but for the space at the beginning of a text."""
    tokenizer = load_tokenizer(Path(__file__).parents[3] / "recipes/tiny/tokenizer")
    tokenizer.core = tokenizers.Tokenizer.from_str(tokenizer.core.to_str())
    tokenizer.core.post_processor = processors.ByteLevel(trim_offsets=trims)

    @settings(max_examples=80, deadline=None)
    @given(text=st.lists(PIECES, max_size=15).map("".join), size=st.integers(0, 9))
    def same(text: str, size: int):
        starts, expected = TokenStarts(text, tokenizer, size=size), tokenizer.token_starts(text)
        assert [starts[index] for index in range(len(starts))] == expected

    same()
    text = "A long story, told word by word. " * 40
    starts = token_starts(text, tokenizer)
    assert isinstance(starts, TokenStarts) and len(starts) == len(tokenizer.encode(text))
    assert [starts[index] for index in range(0, len(starts), 7)] == tokenizer.token_starts(text)[::7]


def test_of_a_tokenizer_that_is_not_cut_the_whole_text_is_looked_into(shared: Path):
    tokenizer = load_tokenizer(shared / "data/tokenizers/phi-3-mini")
    assert token_starts("One two.", tokenizer) == tokenizer.token_starts("One two.")
