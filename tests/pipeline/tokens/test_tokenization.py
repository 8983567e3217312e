from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.drops import Dropped, DropReason
from oddsmill.pipeline.formats.pairs import PairIds, PreferencePair
from oddsmill.pipeline.tokens.length_rules import fit
from oddsmill.pipeline.tokens.our_rules import add_special_tokens, split_at_boundary
from oddsmill.pipeline.tokens.text_rules import OURS
from oddsmill.pipeline.tokens.tokenization import tokenize_batch
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.record import Truncated

B, E, S, T = 1, 2, 3, 4  # BOS, EOS, a token of white space, the end of a turn


def config(**changes: Any) -> PreprocessConfig:
    return PreprocessConfig(source=SourceConfig(path="a"), tokenizer="t", output="o", **changes)


def specials(bos_id: int | None = B) -> Tokenizer:
    ids = {"bos_id": bos_id, "eos_id": E, "answer_ends": frozenset({E, T})}
    tokenizer = SimpleNamespace(**ids, is_space=lambda token: token == S)
    tokenizer.with_bos = lambda prompt: Tokenizer.with_bos(cast(Tokenizer, tokenizer), prompt)
    return cast(Tokenizer, tokenizer)


def sides(ids: PairIds) -> tuple[list[int], list[int], list[int]]:
    return ids.prompt, ids.chosen, ids.rejected


# fmt: off
def test_where_no_token_spans_the_boundary_the_prompt_is_the_prompt():
    ids = split_at_boundary([10, 11], [10, 11, 20, 21],
                                      [10, 11, 30], has_bos=False)
    assert sides(ids) ==   ([10, 11],        [20, 21], [30])
    assert not ids.boundary_merged


def test_a_token_that_spans_the_boundary_goes_to_the_answers_of_both_sides():
    ids = split_at_boundary([10, 11, 12], [10, 11, 99, 21],
                                          [10, 11, 12, 30], has_bos=False)
    assert sides(ids) ==   ([10, 11],             [99, 21], [12, 30])
    assert ids.boundary_merged


def test_an_answer_that_eats_the_prompts_last_tokens_is_shorter_than_it():
    ids = split_at_boundary([10, 11, 12], [10, 99],
                                          [10, 11, 12, 30], has_bos=False)
    assert sides(ids) ==   ([10],             [99], [11, 12, 30])
    assert ids.boundary_merged
# fmt: on


def test_a_side_without_a_token_of_its_own_is_dropped():
    with pytest.raises(Dropped, match="empty_answer: chosen has no token"):
        split_at_boundary([10, 11], [10, 11], [10, 11, 30], has_bos=False)
    with pytest.raises(Dropped, match="no_common_prompt: the two sides share no token"):
        split_at_boundary([10], [99], [10, 30], has_bos=False)
    assert sides(split_at_boundary([10], [99], [10, 30], has_bos=True)) == ([], [99], [10, 30])


@pytest.mark.parametrize(
    ("prompt", "bos_id", "expected"),
    [([10], B, [B, 10]), ([B, 10], B, [B, 10]), ([10], None, [10]), ([], B, [B]), ([10, B], B, [B, 10, B])],
)
def test_bos_stands_once_at_the_head(prompt: list[int], bos_id: int | None, expected: list[int]):
    ids = add_special_tokens(PairIds(prompt=prompt, chosen=[20], rejected=[30]), specials(bos_id))
    assert ids.prompt == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([20], [20, E]),
        ([20, E], [20, E]),
        ([20, E, S], [20, E, S]),
        ([20, E, S, S], [20, E, S, S]),
        ([20, S], [20, S, E]),
        ([E, 20], [E, 20, E]),
        ([S], [S, E]),
        ([E], [E]),
        ([20, T], [20, T]),
        ([20, T, S], [20, T, S]),
        ([T, 20], [T, 20, E]),
    ],
)
def test_eos_stands_once_at_the_end(answer: list[int], expected: list[int]):
    ids = add_special_tokens(PairIds(prompt=[10], chosen=answer, rejected=[30]), specials())
    assert ids.chosen == expected
    assert ids.rejected == [30, E]


def cut(prompt: int, chosen: int, rejected: int, **changes: Any) -> tuple[int, int, int, list[str]]:
    """Lengths that the length rules make of these."""
    ids = PairIds(prompt=[10] * prompt, chosen=[20] * chosen, rejected=[30] * rejected)
    after = fit(ids, config(**changes), bos_id=None)
    return len(after.prompt), len(after.chosen), len(after.rejected), after.truncated.names()


LIMITS = {"max_length": 100, "max_prompt_length": 40}


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ((50, 50, 30), (50, 50, 30, [])),  # fits exactly
        ((50, 51, 30), (49, 51, 30, ["prompt"])),  # one too many: the prompt gives way
        ((95, 10, 20), (80, 10, 20, ["prompt"])),  # short answers leave room to a long prompt
        ((95, 70, 20), (40, 60, 20, ["prompt", "chosen"])),  # the prompt stops at its floor, then the answer
        ((30, 90, 80), (30, 70, 70, ["chosen", "rejected"])),  # a prompt below the floor is whole
        ((30, 90, 60), (30, 70, 60, ["chosen"])),  # each side alone
        ((200, 1, 1), (99, 1, 1, ["prompt"])),
        ((1, 200, 200), (1, 99, 99, ["chosen", "rejected"])),
    ],
)
def test_the_length_rules_by_hand(lengths: tuple[int, int, int], expected: tuple):
    assert cut(*lengths, **LIMITS) == expected


def test_the_limit_of_an_answer_comes_first_and_leaves_the_prompt_room():
    assert cut(80, 60, 5, **LIMITS, max_completion_length=20) == (80, 20, 5, ["chosen"])
    assert cut(90, 60, 5, **LIMITS, max_completion_length=20) == (80, 20, 5, ["prompt", "chosen"])


@pytest.mark.parametrize(
    ("side", "bos_id", "expected"),
    [
        ("keep_end", None, [12, 13, 14]),
        ("keep_end", 10, [10, 13, 14]),
        ("keep_start", None, [10, 11, 12]),
        ("keep_start", 10, [10, 11, 12]),
    ],
)
def test_a_cut_prompt_keeps_its_bos(side: str, bos_id: int | None, expected: list[int]):
    ids = PairIds(prompt=[10, 11, 12, 13, 14], chosen=[20, E], rejected=[30, E])
    after = fit(ids, config(max_length=5, max_prompt_length=1, truncation_side=side), bos_id=bos_id)
    assert after.prompt == expected


def test_a_prompt_of_one_token_is_bos():
    ids = PairIds(prompt=[B, 11, 12], chosen=[20] * 9, rejected=[30, E])
    assert fit(ids, config(max_length=5, max_prompt_length=1), bos_id=B).prompt == [B]


def test_a_prompt_that_leaves_no_room_is_dropped():
    with pytest.raises(Dropped, match="prompt_too_long: 100 tokens of prompt leave no room"):
        cut(100, 5, 5, max_length=100, max_prompt_length=100)
    assert cut(99, 5, 5, max_length=100, max_prompt_length=100) == (99, 1, 1, ["chosen", "rejected"])


def test_overlong_pairs_are_dropped_where_that_is_asked():
    assert cut(50, 50, 30, **LIMITS, overlong="drop") == (50, 50, 30, [])
    with pytest.raises(Dropped, match="prompt_too_long: prompt has 50 tokens, 49 fit"):
        cut(50, 51, 30, **LIMITS, overlong="drop")
    with pytest.raises(Dropped, match="answer_too_long: rejected has 90 tokens, 70 fit"):
        cut(30, 20, 90, **LIMITS, overlong="drop")


def test_an_answer_too_long_for_any_prompt_is_to_blame_and_every_cut_is_named():
    with pytest.raises(Dropped, match="answer_too_long: prompt has 50 tokens, 40 fit; rejected has 61 tokens, 60 fit"):
        cut(50, 20, 61, **LIMITS, overlong="drop")
    with pytest.raises(Dropped, match=r"prompt_too_long: prompt has 50 tokens, 40 fit$"):
        cut(50, 20, 60, **LIMITS, overlong="drop")


def test_a_pair_longer_than_a_row_is_dropped():
    assert cut(10, 80, 10, **LIMITS, row_length=100) == (10, 80, 10, [])
    with pytest.raises(Dropped, match="pair_too_long: 101 tokens, a row has 100"):
        cut(10, 80, 11, **LIMITS, row_length=100)


TEXT = st.text(alphabet=st.sampled_from("ab .\n?é漢👍"), min_size=1, max_size=30).filter(str.strip)


@pytest.mark.properties
@settings(deadline=None)
@given(
    pair=st.builds(PreferencePair, TEXT, TEXT, TEXT),
    max_length=st.integers(2, 40),
    max_prompt_length=st.integers(1, 50),
    max_completion_length=st.none() | st.integers(1, 30),
    truncation_side=st.sampled_from(["keep_end", "keep_start"]),
)
def test_what_holds_of_every_pair(tokenizer_folder: Path, pair: PreferencePair, **limits: Any):
    tokenizer = load_tokenizer(tokenizer_folder)
    rules = config(**limits)
    (ids,) = tokenize_batch([pair], tokenizer, OURS, rules)
    if isinstance(ids, Dropped):
        assert ids.reason is DropReason.PROMPT_TOO_LONG
        assert rules.max_prompt_length >= rules.max_length
        return
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
        assert len(ids.prompt) >= min(rules.max_prompt_length, rules.max_length - longer)


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
