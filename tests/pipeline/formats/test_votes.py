from typing import Any

import pytest

from oddsmill.pipeline import SourceConfig
from oddsmill.pipeline.formats import votes as votes_format
from oddsmill.pipeline.formats.pairs import Pair
from oddsmill.pipeline.formats.rows import Row
from oddsmill.schemas.drops import Dropped


def votes(value: Any, *, answers: Any = ("a", "b"), **settings: Any) -> Pair:
    row = Row({"prompt": "p", "completions": list(answers), "votes": value}, {})
    (pair,) = votes_format.read(row, SourceConfig(path="a", **settings))
    return pair


@pytest.mark.parametrize(
    "value", [1, "1", 1.0, "A", "first", [1, 2, 1], [1, 1, 0], [1], [1, None], ["1", 2, 1], "[1, 1, 2]"]
)
def test_the_majority_is_chosen(value: Any):
    assert votes(value) == ("p", "a", "b")
    assert votes(value, answers=("b", "a")) == ("p", "b", "a")


def test_votes_for_the_second_swap_the_answers():
    assert votes([2, 2, 0]) == ("p", "b", "a")


@pytest.mark.parametrize("value", [0, "tie", [1, 2], [1, 2, 0], [0, 0, 1]])
def test_votes_without_a_majority_are_a_tie(value: Any):
    with pytest.raises(Dropped, match="tie"):
        votes(value)


def test_what_votes_mean_can_be_said():
    meaning = {"0": "first", "1": "second", "True": "tie"}
    assert votes([0, 0, 1], vote_values=meaning) == ("p", "a", "b")
    with pytest.raises(Dropped, match="tie"):
        votes(True, vote_values=meaning)
    with pytest.raises(Dropped, match="wrong_type: vote 2 is not known"):
        votes(2, vote_values=meaning)


@pytest.mark.parametrize("value", [True, "maybe", 1.5, [1, "x"]])
def test_an_unknown_vote_is_dropped(value: Any):
    with pytest.raises(Dropped, match="wrong_type: vote"):
        votes(value)


def test_votes_are_on_two():
    with pytest.raises(Dropped, match="wrong_type: 3 completions, votes are on 2"):
        votes(1, answers=("a", "b", "c"))


@pytest.mark.parametrize("value", [None, "", [], [None, None]])
def test_a_row_without_a_vote_is_dropped(value: Any):
    with pytest.raises(Dropped, match="missing_field: the row has no vote"):
        votes(value)


def test_the_columns_of_the_answers_say_what_votes_by_number_mean():
    names = {"completions": ["response_0", "response_1"], "votes": "better"}
    row = Row({"prompt": "p", "response_0": "a", "response_1": "b", "better": 0}, names)
    assert votes_format.read(row, SourceConfig(path="a")) == [("p", "a", "b")]
