"""Pairs that are tokenized many at once have the ids that each has by itself, and none goes that way that may not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.formats.pairs import Pair, PairIds, PreferencePair, chat_pair
from oddsmill.pipeline.tokens import plain_pairs
from oddsmill.pipeline.tokens.text_rules import OURS
from oddsmill.pipeline.tokens.tokenization import tokenize_batch
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.drops import Dropped

ROOT = Path(__file__).parents[3]
ONE_BY_ONE = OURS._replace(tokenize_plain=None)
CHAT = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def dialogue(prompt: str, chosen: str, rejected: str) -> Pair:
    answers = ([{"role": "assistant", "content": text}] for text in (chosen, rejected))
    return chat_pair([{"role": "user", "content": prompt}], *answers)


def shown(made: PairIds | Dropped) -> Any:
    return (made.reason, made.detail) if isinstance(made, Dropped) else made


def same(pairs: list[Pair], tokenizer: Tokenizer, **changes: Any) -> int:
    """Compares the pairs of a batch with each by itself; returns how many were tokenized together."""
    config = PreprocessConfig(source=SourceConfig(path="a"), tokenizer="t", output="o", **changes)
    counted: list[int] = []

    def counting(*arguments: Any) -> Any:
        plain = OURS.tokenize_plain(*arguments)
        counted.append(len(plain.numbers))
        return plain

    together = list(map(shown, tokenize_batch(pairs, tokenizer, OURS._replace(tokenize_plain=counting), config)))
    alone = [shown(ids) for pair in pairs for ids in tokenize_batch([pair], tokenizer, ONE_BY_ONE, config)]
    assert together == alone
    return sum(counted)


@pytest.fixture(scope="module")
def loaded(make_tokenizer: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[Tokenizer]:
    """One that adds BOS and encodes a prompt's head by itself, one without BOS, one that encodes all at once."""
    tiny = load_tokenizer(ROOT / "recipes/tiny/tokenizer", chat_template=CHAT)
    without = load_tokenizer(ROOT / "recipes/tiny/tokenizer", chat_template=CHAT, add_bos=False)
    return [tiny, without, load_tokenizer(make_tokenizer(tmp_path_factory.mktemp("plain")), chat_template=CHAT)]


TEXT = st.lists(
    st.sampled_from(["a", "b c", " ", "word ", "\n", "12", "é", "e\u0301", "漢", "</s>", "<s>", "Ab", "", "!"]),
    max_size=7,
).map("".join)
TEXTS = st.builds(PreferencePair, TEXT, TEXT, TEXT)
DIALOGUES = st.builds(dialogue, TEXT, TEXT, TEXT)


@pytest.mark.properties
@settings(deadline=None)
@given(
    pairs=st.lists(TEXTS | DIALOGUES, min_size=1, max_size=8),
    which=st.integers(0, 2),
    max_length=st.integers(2, 40),
    max_completion_length=st.none() | st.integers(1, 12),
    max_prompt_length=st.none() | st.integers(1, 50),
    spare=st.none() | st.integers(0, 20),
    overlong=st.sampled_from(["truncate", "truncate", "drop"]),
    truncation_side=st.sampled_from(["keep_end", "keep_start"]),
)
def test_pairs_of_a_batch_have_the_ids_of_each_by_itself(
    loaded: list[Tokenizer], pairs: list[Pair], which: int, max_length: int, spare: int | None, **limits: Any
):
    row_length = None if spare is None else max_length + spare
    same(pairs, loaded[which], max_length=max_length, row_length=row_length, **limits)


def test_ordinary_pairs_go_together_and_others_by_themselves(loaded: list[Tokenizer], monkeypatch: pytest.MonkeyPatch):
    ordinary = [
        PreferencePair("Name a tree.", " An oak.", " A rock!"),
        dialogue("Name a tree.", "An oak.", "A rock, I think."),
        PreferencePair("Name a tree. " * 99, " An oak.", " A rock!"),  # the prompt is cut
        PreferencePair("Name", " An oak. " * 99, " No."),  # an answer is cut
    ]
    others = [
        PreferencePair("Name a tree.", " An oak.", " An oak."),
        PreferencePair("Name a tree.", " An oak.", " An oak.</s>"),  # equal tokens, once EOS is added
        PreferencePair("Name a tree.", "", " A rock!"),  # no token of its own
        PreferencePair("caf", "e\u0301", "\u00e9"),  # two forms of Unicode
        PreferencePair("", "a", "bc"),  # no prompt
        PreferencePair("<s>" * 99, "a", "bc"),  # a BOS of its own, and cut
        dialogue("Name a tree. " * 99, "An oak.", "A rock, I think."),
    ]
    for tokenizer in loaded:
        assert same([*ordinary, *others, *ordinary], tokenizer, max_length=64) == 2 * len(ordinary)
        assert same(ordinary[-1:], tokenizer, max_length=64, row_length=64) == 0  # no row has room for both answers
    monkeypatch.setattr(plain_pairs, "_LONGEST_TAIL", 2)
    assert same([*ordinary, *others, *ordinary], loaded[-1], max_length=64) == 0
