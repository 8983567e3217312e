from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.formats.pairs import PairIds, PreferencePair
from oddsmill.pipeline.tokens.text_rules import OURS
from oddsmill.pipeline.tokens.tokenization import tokenize_batch
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.schemas.chat.tokenizer import FlatIds
from oddsmill.schemas.drops import Dropped, DropReason
from oddsmill.schemas.record import Truncated

B, E = 1, 2  # BOS, EOS


def config(**changes: Any) -> PreprocessConfig:
    return PreprocessConfig(source=SourceConfig(path="a"), tokenizer="t", output="o", **changes)


TEXT = st.text(alphabet=st.sampled_from("ab .\n?é漢👍"), min_size=1, max_size=30).filter(str.strip)


@pytest.mark.properties
@settings(deadline=None)
@given(
    pair=st.builds(PreferencePair, TEXT, TEXT, TEXT),
    max_length=st.integers(2, 40),
    max_prompt_length=st.none() | st.integers(1, 50),
    max_completion_length=st.none() | st.integers(1, 30),
    truncation_side=st.sampled_from(["keep_end", "keep_start"]),
)
def test_what_holds_of_every_pair(tokenizer_folder: Path, pair: PreferencePair, **limits: Any):
    tokenizer = load_tokenizer(tokenizer_folder)
    rules = config(**limits)
    (ids,) = tokenize_batch([pair], tokenizer, OURS, rules)
    if isinstance(ids, Dropped) and ids.reason is DropReason.IDENTICAL_ANSWERS:
        (whole,) = tokenize_batch([pair], tokenizer, OURS, config())
        assert isinstance(whole, Dropped) or whole.chosen[0] == whole.rejected[0]
        return
    if isinstance(ids, Dropped):
        assert ids.reason is DropReason.PROMPT_TOO_LONG
        assert rules.max_prompt_length is not None
        assert rules.max_prompt_length >= rules.max_length
        return
    assert ids.chosen != ids.rejected
    assert ids.prompt.count(B) == 1
    assert ids.prompt[0] == B
    for flag, answer, text in (
        (Truncated.CHOSEN, ids.chosen, pair.chosen),
        (Truncated.REJECTED, ids.rejected, pair.rejected),
    ):
        assert 1 <= len(answer) <= rules.max_length - len(ids.prompt)
        assert rules.max_completion_length is None or len(answer) <= rules.max_completion_length
        if flag in ids.truncated:
            assert E not in answer
        else:
            assert answer.count(E) == 1
            assert answer[-1] == E
            if Truncated.PROMPT not in ids.truncated:
                assert tokenizer.decode([*ids.prompt[1:], *answer[:-1]]) == pair.prompt + text
    if Truncated.PROMPT in ids.truncated:
        longer = max(len(ids.chosen), len(ids.rejected))
        assert len(ids.prompt) >= min(rules.max_prompt_length or rules.max_length // 2, rules.max_length - longer)


def test_a_text_that_spells_a_special_token_is_that_token(tokenizer_folder: Path):
    tokenizer = load_tokenizer(tokenizer_folder)
    pair = PreferencePair("<s>Tell me", " yes</s>", " no</s> ")
    (ids,) = tokenize_batch([pair], tokenizer, OURS, config())
    assert isinstance(ids, PairIds)
    assert ids.prompt.count(B) == 1
    assert ids.chosen[-1] == E
    assert ids.chosen.count(E) == 1
    assert ids.rejected.count(E) == 1
    assert ids.rejected[-1] != E


class PanicException(BaseException):
    """Named as the exception that a panic of Rust code raises."""


@pytest.mark.parametrize("error", [ValueError("no such text"), PanicException("no such text")])
def test_a_text_that_the_tokenizer_fails_on_costs_its_own_pair_only(
    tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
):
    tokenizer = load_tokenizer(tokenizer_folder)
    encode = tokenizer.encode_flat

    def failing(texts: Sequence[str]) -> FlatIds:
        if any("bad" in text for text in texts):
            raise error
        return encode(texts)

    monkeypatch.setattr(tokenizer, "encode_flat", failing)
    pairs = [PreferencePair(prompt, " yes", " no") for prompt in ("one", "bad", "two")]
    first, failed, second = tokenize_batch(pairs, tokenizer, OURS, config())
    assert isinstance(first, PairIds) and isinstance(second, PairIds)
    assert isinstance(failed, Dropped) and failed.reason is DropReason.ROW_ERROR and "no such text" in failed.detail
