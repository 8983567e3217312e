import json
from decimal import Decimal
from typing import Any

import pytest

from oddsmill.pipeline import SourceConfig
from oddsmill.pipeline.formats.pairs import Pair
from oddsmill.pipeline.formats.parsing import parse_row
from oddsmill.pipeline.formats.ratings import read_number, read_vote
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.schemas.drops import Dropped, Origin

GOOD = {"prompt": "p", "chosen": "c", "rejected": "r"}


def raw(values: Any) -> RawRow:
    return RawRow(Origin(0, 0), values if isinstance(values, bytes) else json.dumps(values).encode())


def one(values: Any, format_name: str, **source: Any) -> Pair:
    (pair,) = parse_row(raw(values), source=SourceConfig(path="a", format=format_name, **source))
    return pair


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((2, 1), ("p", "c", "r")),
        ((1, 1), "tie"),
        ((1.4, 1), "tie"),
        ((1, 2), "swapped_scores"),
        (("2", 1), ("p", "c", "r")),
        (("8.5", "3.0"), ("p", "c", "r")),
        ((" 1e1 ", "+9"), ("p", "c", "r")),
        (("9", "10"), "swapped_scores"),  # as numbers: as texts 10 is less than 9
        ((None, 1), ("p", "c", "r")),
        (("", 1), ("p", "c", "r")),  # an empty cell of a CSV file is null
        (("good", 1), "wrong_type: score_chosen holds 'good', not a number"),
        (("4/5", 1), "wrong_type"),
        (("8,5", 1), "wrong_type"),
        (("1_0", 1), "wrong_type"),
        (("٣", 1), "wrong_type"),
        (("nan", 1), "wrong_type"),
        ((1, "inf"), "wrong_type"),
        (("1e400", 1), "wrong_type"),
        ((10**400, 1), "wrong_type: score_chosen holds int, not a number"),
        ((True, 0), "wrong_type"),
        (([1], 0), "wrong_type"),
    ],
)
def test_the_scores_of_a_pair_are_held_against_it(scores: tuple, expected: Any):
    row = GOOD | {"score_chosen": scores[0], "score_rejected": scores[1]}
    if isinstance(expected, tuple):
        assert one(row, "triple", margin=0.5) == expected
        return
    with pytest.raises(Dropped, match=expected):
        one(row, "triple", margin=0.5)


@pytest.mark.parametrize(
    ("value", "number"),
    [(Decimal("8.50"), 8.5), (Decimal("-3"), -3.0), (2**70, 2.0**70), ("0.1", 0.1), (".5", 0.5), ("5.", 5.0)],
)
def test_decimals_and_texts_of_numbers_are_numbers(value: Any, number: float):
    assert read_number(value, "scores") == number


@pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("sNaN"), Decimal("1e400"), float("inf"), "", "x" * 500])
def test_what_is_no_number_of_float64_drops_the_row_and_is_quoted_in_short(value: Any):
    with pytest.raises(Dropped, match=r"wrong_type: scores holds .{0,62}, not a number"):
        read_number(value, "scores")


@pytest.mark.parametrize(
    ("vote", "names", "meaning"),
    [
        ("model_a", (), "first"),
        ("Model_B", (), "second"),
        ("tie (bothbad)", (), "tie"),
        ("both_bad", (), "tie"),
        ("B", (), "second"),
        ("1.0", (), "first"),
        (Decimal(2), (), "second"),
        ("response_2", (), "second"),
        # The columns' names say what their numbers are.
        (0, ("response_0", "response_1"), "first"),
        (1, ("response_0", "response_1"), "second"),
        ("1", ("output_2", "output_1"), "second"),
        ("good_text", ("bad_text", "good_text"), "second"),
        ("model_b", ("conversation_a", "conversation_b"), "second"),
        ("tie", ("conversation_a", "conversation_b"), "tie"),
        (0, ("output_1", "output_2"), "tie"),
    ],
)
def test_a_vote_names_an_answer(vote: Any, names: tuple, meaning: str):
    assert read_vote(vote, SourceConfig(path="a"), names) == meaning


def test_votes_are_compared_with_their_meanings_as_values_not_as_texts():
    meanings = SourceConfig(path="a", vote_values={"true": "first", "False": "second", "-1": "tie"})
    assert [read_vote(vote, meanings) for vote in (True, "False", "-1.0", -1)] == ["first", "second", "tie", "tie"]


@pytest.mark.parametrize("vote", [2, "2", 3, "response_2"])
def test_a_vote_that_contradicts_the_columns_names_is_not_known(vote: Any):
    with pytest.raises(Dropped, match=r"wrong_type: vote .* is not known; say what it means by source.vote_values"):
        read_vote(vote, SourceConfig(path="a"), ("response_0", "response_1"))
