from array import array
from itertools import accumulate
from pathlib import Path

import pytest

from oddsmill.pipeline.formats.pairs import PreferencePair
from oddsmill.pipeline.tokens import encoding
from oddsmill.pipeline.tokens.encoding import encode_sides, token_ends, token_starts
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


def test_a_very_long_text_is_encoded_in_pieces_to_the_same_ids(tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch):
    tokenizer = load_tokenizer(tokenizer_folder)
    pairs = [PreferencePair("Hi", " a b\n\nc,  d é" * 40, ""), PreferencePair("Once upon a time " * 30, " yes", " no")]
    whole, sizes = list(encode_sides(pairs, tokenizer)), list[int]()
    encode_flat = tokenizer.encode_flat
    monkeypatch.setattr(tokenizer, "encode_flat", lambda texts: sizes.extend(map(len, texts)) or encode_flat(texts))
    monkeypatch.setattr(encoding, "_PIECE", 50)
    assert list(encode_sides(pairs, tokenizer)) == whole
    assert len(token_starts(pairs[1].prompt, tokenizer)) == len(whole[1][0])
    assert max(sizes) < 70
    monkeypatch.setattr(encoding, "_cuts_are_safe", lambda _: False)
    assert list(encode_sides(pairs, tokenizer)) == whole
    assert max(sizes) == 522


@pytest.mark.parametrize("name", ["qwen2", "phi-3-mini"])
def test_tokens_lie_where_an_encoding_of_the_whole_text_has_them(shared: Path, name: str):
    """The last text is altered by the normalizer of Qwen 2, so that its bytes do not tell."""
    tokenizer = load_tokenizer(shared / "data/tokenizers" / name)
    for text in ("One two.", "", " naïve 語 👍🏽\n\n  x", "a" * 99 + " e\u0301 2"):
        encoding = tokenizer.core.encode(text, add_special_tokens=False)
        assert token_starts(text, tokenizer) == [start for start, _ in encoding.offsets]
        ends = list(accumulate((end for _, end in encoding.offsets), max))
        for first in range(len(encoding.ids)):
            before = encoding.ids[first - 1] if first else None
            assert token_ends(text, array("i", encoding.ids[first:]), before, tokenizer) == ends[first:]
