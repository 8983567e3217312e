from array import array
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.formats.pairs import PairIds
from oddsmill.pipeline.tokens import length_rules
from oddsmill.pipeline.tokens.length_rules import fit
from oddsmill.schemas.drops import Dropped
from oddsmill.schemas.errors import Refused

B, E = 1, 2  # BOS, EOS


def config(**changes: Any) -> PreprocessConfig:
    return PreprocessConfig(source=SourceConfig(path="a"), tokenizer="t", output="o", **changes)


def pair(*sides: list[int]) -> PairIds:
    return PairIds(*(array("i", ids) for ids in sides))


def cut(prompt: int, chosen: int, rejected: int, **changes: Any) -> tuple[int, int, int, list[str]]:
    """Lengths that the length rules make of these."""
    ids = pair([10] * prompt, [20] * chosen, [30] * rejected)
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
    ids = pair([10, 11, 12, 13, 14], [20, E], [30, E])
    after = fit(ids, config(max_length=5, max_prompt_length=1, truncation_side=side), bos_id=bos_id)
    assert after.prompt.tolist() == expected


def test_a_prompt_of_one_token_is_bos():
    ids = pair([B, 11, 12], [20] * 9, [30, E])
    assert fit(ids, config(max_length=5, max_prompt_length=1), bos_id=B).prompt.tolist() == [B]


def test_a_prompt_that_leaves_no_room_is_dropped():
    with pytest.raises(Dropped, match="prompt_too_long: 100 tokens of prompt leave no room"):
        cut(100, 5, 5, max_length=100, max_prompt_length=100)
    assert cut(99, 5, 5, max_length=100, max_prompt_length=100) == (99, 1, 1, ["chosen", "rejected"])


@pytest.mark.parametrize(
    ("max_length", "expected"),
    [(2, (1, 1, 1)), (3, (1, 2, 2)), (5, (2, 3, 3)), (100, (50, 50, 50)), (512, (256, 256, 256)), (4096, (2048,) * 3)],
)
def test_where_no_floor_is_given_a_prompt_keeps_half_of_the_room(max_length: int, expected: tuple[int, int, int]):
    assert cut(9999, 9999, 9999, max_length=max_length)[:3] == expected
    # A short answer leaves it more.
    assert cut(9999, 1, 1, max_length=max_length)[:3] == (max_length - 1, 1, 1)


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


LENGTHS = st.integers(1, 12)


@settings(deadline=None, max_examples=200)
@given(
    lengths=st.tuples(LENGTHS, LENGTHS, LENGTHS),
    limits=st.fixed_dictionaries(
        {"max_length": st.integers(2, 24)},
        optional={
            "max_prompt_length": LENGTHS,
            "max_completion_length": LENGTHS,
            "row_length": st.integers(0, 12),  # more than max_length
            "overlong": st.just("drop"),
        },
    ),
)
def test_a_pair_that_is_told_to_fit_is_one_that_the_rules_leave_whole(lengths: tuple[int, int, int], limits: dict):
    """One comparison tells most pairs; the rules are made to look at these too."""

    def outcome() -> tuple | str:
        try:
            return cut(*lengths, **limits)
        except Dropped as dropped:
            return str(dropped)

    if "row_length" in limits:
        limits["row_length"] += limits["max_length"]
    try:
        config(**limits)
    except Refused:  # a floor above max_length
        return
    found = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(length_rules, "_fits", lambda *_: False)
        assert outcome() == found
