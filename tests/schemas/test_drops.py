import pickle
from collections.abc import Callable
from typing import Any

import pytest

from oddsmill.schemas.drops import Dropped, DropReason, dropping_errors
from oddsmill.schemas.errors import Refused, RunFailed


def test_every_reason_has_a_meaning_of_its_own_and_survives_the_way_to_a_worker():
    assert len({reason.meaning for reason in DropReason}) == len(DropReason) and all(r.meaning for r in DropReason)
    assert all(pickle.loads(pickle.dumps(reason)) is reason is DropReason(str(reason)) for reason in DropReason)


def test_a_drop_says_its_reason_and_detail():
    assert str(Dropped(DropReason.TIE, "1 for each")) == "tie: 1 for each"


def test_a_detail_can_be_written_whatever_it_quotes():
    assert Dropped(DropReason.TIE, "key \ud800").detail == "key \\ud800"
    assert len(Dropped(DropReason.TIE, "x" * 10**6).detail) == 1000


def _deeper() -> None:
    _deeper()


@pytest.mark.parametrize(
    ("function", "drop"),
    [
        (lambda: 1 // 0, "row_error: ZeroDivisionError in test_drops.py:"),
        (lambda: float(10**400), "row_error: OverflowError in test_drops.py:"),
        (lambda: "\ud800".encode(), "row_error: UnicodeEncodeError in test_drops.py:"),
        (_deeper, "unreadable: nested deeper than can be read"),
    ],
)
def test_what_a_row_makes_our_code_raise_is_a_drop(function: Callable[[], Any], drop: str):
    with pytest.raises(Dropped, match=drop) as caught:
        dropping_errors(function)()
    assert caught.value.__cause__ is not caught.value


@pytest.mark.parametrize("error", [Refused("a"), RunFailed("b"), MemoryError(), Dropped(DropReason.TIE, "c")])
def test_what_is_no_matter_of_the_row_passes(error: Exception):
    @dropping_errors
    def function() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        function()
    assert caught.value is error and error.__cause__ is None
