from pathlib import Path

from oddsmill.pipeline.formats.pairs import PreferencePair
from oddsmill.pipeline.tokens.encoding import encode_sides
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
