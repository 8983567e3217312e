from collections.abc import Callable
from pathlib import Path

import pytest

from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.engines import choice
from oddsmill.schemas.engines.choice import TOKENIZERS, choose_engine
from oddsmill.schemas.engines.flat import FlatIds
from oddsmill.schemas.errors import Refused
from tests.schemas.engines.sample_tokenizers import KINDS, TAKEN, difficult_texts, write_tokenizer

NOT_TAKEN = "fastokens does not take this tokenizer"
REASONS = {
    "few pieces": 'fastokens gives other ids than tokenizers for the text "',
    "nfkc": f"{NOT_TAKEN} (normalizer error: unsupported normalizer type: NFKC)",
    "metaspace": f"{NOT_TAKEN} (pre-tokenizer error: unsupported pre-tokenizer type: Metaspace)",
}
SAMPLE = ["the quick brown fox", "they'll say", "they'll say: however"]


@pytest.mark.parametrize("kind", KINDS)
def test_fastokens_encodes_what_it_takes_and_the_line_says_why_not(kind: str, tmp_path: Path):
    tokenizer = Tokenizer(write_tokenizer(kind, tmp_path))
    chosen = choose_engine(tokenizer, "auto", SAMPLE)
    assert chosen.name == ("fastokens" if kind in TAKEN else "tokenizers")
    assert chosen.reason.startswith(REASONS.get(kind, "")) and bool(chosen.reason) == (kind in REASONS)
    assert "\n" not in chosen.reason
    if kind not in TAKEN:
        with pytest.raises(Refused, match=r"^--tokenizer_engine=fastokens: fastokens .*; leave it out"):
            choose_engine(tokenizer, "fastokens", SAMPLE)
    assert choose_engine(tokenizer, "tokenizers", SAMPLE) == TOKENIZERS


OF_MODELS = ("llama-3", "minimind-chatml", "phi-3-mini", "phi-3-vision-bos", "qwen2")


@pytest.fixture
def load(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], Tokenizer]:
    """Loads a tokenizer of a kind, or of a model, with fastokens."""

    def call(name: str) -> Tokenizer:
        is_small = name in KINDS
        folder = (
            write_tokenizer(name, tmp_path)
            if is_small
            else request.getfixturevalue("shared") / "data/tokenizers" / name
        )
        tokenizer = Tokenizer(folder)
        tokenizer.use_engine(choose_engine(tokenizer, "fastokens", SAMPLE))
        return tokenizer

    return call


def assert_agree(tokenizer: Tokenizer, count: int, seed: int) -> None:
    """Both engines give the same ids for difficult texts, a thousand at a time."""
    assert tokenizer.engine is not None
    for part in range(0, count, 1000):
        texts = difficult_texts(1000, seed=seed + part, added_tokens=tokenizer.added_tokens[:50])
        flat = tokenizer.engine._engine.encode_flat(texts)
        for number, ids in enumerate(tokenizer.encode_batch(texts)):
            assert flat.of(number) == ids, texts[number]


# 20,000 texts in `make test`, a million in `make test-slow`.
@pytest.mark.parametrize("name", [*TAKEN, "minimind-chatml", "phi-3-mini"])
def test_both_engines_give_the_same_ids(load: Callable[[str], Tokenizer], name: str):
    assert_agree(load(name), 2_000 if name in TAKEN else 3_000, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TAKEN, *OF_MODELS])
def test_both_engines_give_the_same_ids_for_a_million_texts(load: Callable[[str], Tokenizer], name: str):
    assert_agree(load(name), 84_000, seed=1_000_000)


def test_an_engine_that_errs_on_a_text_of_the_run_alone_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Wrong(choice.FastEngine):
        def encode_flat(self, texts: list[str]) -> FlatIds:
            flat = super().encode_flat(texts)
            if SAMPLE[2] in texts:
                flat.ids[-1] += 1
            return flat

    monkeypatch.setattr(choice, "FastEngine", Wrong)
    tokenizer = Tokenizer(write_tokenizer("gpt2", tmp_path))
    assert choose_engine(tokenizer, "auto", SAMPLE[:2]).name == "fastokens"
    assert SAMPLE[2] in choose_engine(tokenizer, "auto", SAMPLE).reason


def test_byte_sums_check_the_texts_that_no_normalizer_alters(tmp_path: Path):
    tokenizer = Tokenizer(write_tokenizer("lower", tmp_path))
    assert choose_engine(tokenizer, "auto", SAMPLE).prefix == ""
    assert choose_engine(tokenizer, "auto", [text.upper() for text in SAMPLE]).prefix is None
    pieces = Tokenizer(write_tokenizer("sentencepiece", tmp_path / "pieces"))
    assert choose_engine(pieces, "auto", SAMPLE).prefix == " "
