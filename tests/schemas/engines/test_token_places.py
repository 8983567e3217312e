"""The places of tokens by their bytes are those that the encoder's offsets give."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import tokenizers
from tokenizers import processors

from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.engines.token_places import TokenPlaces
from tests.schemas.engines.sample_tokenizers import KINDS, difficult_texts, write_tokenizer

ROOT = Path(__file__).parents[3]
REAL = ["qwen2", "llama-3", "minimind-chatml", "phi-3-mini", "phi-3-vision-bos"]


def share_found(core: tokenizers.Tokenizer, texts: Sequence[str]) -> float:
    """Compares the places of the last tokens of texts, as many as are drawn; returns the share that is found."""
    places, draw, found = TokenPlaces(core), random.Random(2), 0
    for text in texts:
        encoding = core.encode(text, add_special_tokens=False)
        first = draw.randint(0, len(encoding.ids)) if draw.random() < 0.5 else 0
        part = places.find(text, encoding.ids[first:], encoding.ids[first - 1] if first else None)
        if part is not None:
            found += 1
            assert list(zip(part.starts, part.ends, strict=True)) == encoding.offsets[first:], text
    return found / len(texts)


@pytest.mark.parametrize("name", REAL)
def test_tokens_of_real_tokenizers_lie_where_their_encoder_says(shared: Path, name: str):
    """In texts with parts of characters, added tokens and the white space that they take, letters of two codes."""
    tokenizer = Tokenizer(shared / "data/tokenizers" / name)
    added = tokenizer.added_tokens[-30:]
    texts = difficult_texts(300, seed=3, added_tokens=added)
    texts += [
        f"{first}{space}{second} 語{space}{first}"
        for first in added
        for second in added[:3]
        for space in (" ", "\n \u2003", "")
    ]
    assert share_found(tokenizer.core, texts) > 0.85


@pytest.mark.parametrize("kind", KINDS)
def test_where_bytes_do_not_tell_nothing_is_said(kind: str, tmp_path: Path):
    """Texts that are altered, tokenizers of every other kind, added tokens of every kind."""
    core = Tokenizer(write_tokenizer(kind, tmp_path)).core
    share_found(core, difficult_texts(100, seed=4, added_tokens=["word", "Norm", "<|right|>", "<|left|>"]))
    settings = core.to_str()
    # Without the tokens that take the white space before them, of which nothing is told.
    without = settings.replace('"lstrip":true', '"lstrip":false').replace('"normalized":true', '"normalized":false')
    core = tokenizers.Tokenizer.from_str(without)
    share = share_found(core, difficult_texts(200, seed=5, added_tokens=["word", "Norm", "<|right|>", "<|left|>"]))
    assert (share > 0.5) == (kind in ("gpt2", "qwen", "o200k", "digits", "sentencepiece", "few pieces")), share


@pytest.mark.parametrize("has_prefix", [False, True])
def test_spaces_that_offsets_leave_out_are_left_out(has_prefix: bool):
    core = tokenizers.Tokenizer.from_file(str(ROOT / "recipes/tiny/tokenizer/tokenizer.json"))
    core.add_tokens(["   ", " x "])
    core.post_processor = processors.ByteLevel(trim_offsets=True, add_prefix_space=has_prefix)
    texts = difficult_texts(300, seed=6, added_tokens=["   ", " x ", "<s>", "  "])
    assert share_found(core, [*texts, "  a  b", " a", "   ", "a   "]) > 0.85
