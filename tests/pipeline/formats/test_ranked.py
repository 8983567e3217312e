from typing import Any

import pytest

from oddsmill.pipeline import SourceConfig
from oddsmill.pipeline.formats import ranked as ranked_format
from oddsmill.pipeline.formats.rows import Row
from oddsmill.schemas.drops import Dropped


def ranked(*, names: dict | None = None, settings: dict | None = None, **row: Any) -> list[tuple[str, str]]:
    source = SourceConfig(path="a", **(settings or {}))
    return [pair[1:] for pair in ranked_format.read(Row({"prompt": "p"} | row, names or {}), source)]


def test_the_best_is_held_against_the_worst():
    assert ranked(completions=["a", "b", "c"], scores=[2, 3.5, -1]) == [("b", "c")]
    assert ranked(completions=["a", "b", "c"], ranks=[2, 1, 3]) == [("b", "c")]


def test_all_pairs_are_those_whose_scores_differ():
    every = {"ranked_pairs": "all"}
    assert ranked(completions=["a", "b", "c"], scores=[2, 3, 2], settings=every) == [("b", "a"), ("b", "c")]
    assert ranked(completions=["a", "b", "c"], scores=[1, 2, 4], settings=every | {"margin": 1.0}) == [
        ("c", "a"),
        ("c", "b"),
    ]


@pytest.mark.parametrize("settings", [{}, {"ranked_pairs": "all"}])
def test_scores_within_the_margin_are_a_tie(settings: dict):
    with pytest.raises(Dropped, match=r"tie: no two scores differ$"):
        ranked(completions=["a", "b", "c"], scores=[1, 1, 1], settings=settings)
    with pytest.raises(Dropped, match="tie: no two scores differ by more than 2"):
        ranked(completions=["a", "b"], scores=[1, 3], settings=settings | {"margin": 2.0})


def test_labels_of_pairs_count_as_wins_and_losses():
    # c beats a and b, b beats a: the order is c, b, a.
    labels = {"completions": ["a", "b", "c"], "preferences": [2, 2, 2]}
    assert ranked(**labels) == [("c", "a")]
    assert ranked(**labels, settings={"ranked_pairs": "all"}) == [("b", "a"), ("c", "a"), ("c", "b")]
    with pytest.raises(Dropped, match="tie"):  # a beats b beats c beats a
        ranked(completions=["a", "b", "c"], preferences=[1, 2, 1])
    with pytest.raises(Dropped, match="wrong_type: preferences do not fit 3 completions"):
        ranked(completions=["a", "b", "c"], preferences=[1, 2])


def test_completions_may_stand_in_fields_of_their_own():
    names = {"completions": ["first answer", "second answer"], "scores": ["s.1", "s.2"]}
    row = {"first answer": "a", "second answer": "b", "s": {"1": 0, "2": 1}}
    assert ranked(**row, names=names) == [("b", "a")]


@pytest.mark.parametrize("settings", [{}, {"ranked_pairs": "all"}])
def test_an_answer_that_nobody_rated_takes_no_part(settings: dict):
    assert ranked(completions=["a", "b", "c"], scores=[3, None, 9], settings=settings) == [("c", "a")]
    assert ranked(completions=["a", "b", None], ranks=["1", "2.0", None], settings=settings) == [("a", "b")]
    assert ranked(completions=["a", None, "c"], scores=[3, 9, 4], settings=settings) == [("c", "a")]
    with pytest.raises(Dropped, match="missing_field: 1 of 2 completions have scores, at least 2 are needed"):
        ranked(completions=["a", "b"], scores=[9.0, None], settings=settings)


def test_answers_and_scores_may_lie_in_the_members_of_a_list():
    names = {"completions": "answers.text", "ranks": "answers.rank"}
    answers = [{"text": "a", "rank": 2.0}, {"text": "b", "rank": "1"}, {"text": "c"}]
    assert ranked(answers=answers, names=names) == [("b", "a")]


def test_lists_may_be_the_json_text_of_them():
    assert ranked(completions='["a", "b"]', scores=" [1, 2]") == [("b", "a")]
    with pytest.raises(Dropped, match="wrong_type: field 'completions' is str, not a list"):
        ranked(completions="['a' 'b']", scores=[1, 2])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"completions": ["a", "b"]}, "missing_field: the row has no scores"),
        ({"completions": ["a", "b"], "scores": [1, 2], "ranks": [1, 2]}, "wrong_type: the row has scores and ranks"),
        ({"completions": ["a"], "scores": [1]}, "missing_field: 1 completions"),
        ({"completions": ["a", "b"], "scores": [1]}, "wrong_type: scores do not fit 2 completions"),
        ({"completions": ["a", "b"], "scores": [1, float("nan")]}, "wrong_type: scores holds nan"),
        ({"completions": ["a", "b"], "scores": [1, True]}, "wrong_type: scores holds True"),
        ({"completions": "a", "scores": [1, 2]}, "wrong_type: field 'completions' is str, not a list"),
        ({"completions": ["a", 5], "scores": [1, 2]}, "wrong_type: the chosen completion is int"),
        ({"completions": ["a", True], "scores": [2, 1]}, "wrong_type: the rejected completion is bool"),
    ],
)
def test_a_ranked_row_that_cannot_be_read_says_why(row: dict, reason: str):
    with pytest.raises(Dropped, match=reason):
        ranked(**row)


def test_answers_may_be_messages():
    user = {"role": "user", "content": "q"}
    said = [{"role": "assistant", "content": text} for text in ("a", "b")]
    row = Row({"prompt": [user], "completions": [[said[0]], said[1]], "scores": [0, 1]}, {})
    (pair,) = ranked_format.read(row, SourceConfig(path="a"))
    assert pair.messages() == ([user], [said[1]], [said[0]])
