import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsmill.pipeline.tokens.packing import pack, pack_in_order

ROW = 32
lengths = st.lists(st.integers(3, ROW), max_size=80)


def test_best_fit_by_hand():
    # Longest first, each to the fullest row that holds it: 8 + 2, 6 + 4, 5 + 3.
    assert pack([3, 8, 5, 4, 6, 2], row_length=10) == [[0, 2], [1, 5], [3, 4]]


def test_next_fit_by_hand():
    assert pack_in_order([3, 8, 5, 4, 6, 2], row_length=10) == [[0], [1], [2, 3], [4, 5]]


@pytest.mark.properties
@given(lengths, st.integers(1, 30))
def test_every_pair_is_in_one_row_and_no_row_overflows(lengths: list[int], window: int):
    for rows in (pack(lengths, row_length=ROW, window=window), pack_in_order(lengths, row_length=ROW)):
        assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
        assert all(sum(lengths[index] for index in row) <= ROW for row in rows)
        assert all(row == sorted(row) for row in rows)
        assert rows == sorted(rows)


@pytest.mark.properties
@given(lengths, st.integers(1, 30))
def test_a_row_does_not_reach_beyond_its_window(lengths: list[int], window: int):
    for row in pack(lengths, row_length=ROW, window=window):
        assert row[-1] // window == row[0] // window


@pytest.mark.properties
@given(lengths)
def test_next_fit_keeps_the_order(lengths: list[int]):
    assert [index for row in pack_in_order(lengths, row_length=ROW) for index in row] == list(range(len(lengths)))


@pytest.mark.properties
@given(lengths)
def test_two_rows_of_best_fit_never_fit_into_one(lengths: list[int]):
    fill = [sum(lengths[index] for index in row) for row in pack(lengths, row_length=ROW)]
    assert sum(sorted(fill)[:2]) > ROW or len(fill) < 2


def test_hardly_a_slot_is_left_empty_where_lengths_vary():
    lengths = [3 + number * 7919 % 200 for number in range(5000)]
    rows = pack(lengths, row_length=512)
    assert 1 - sum(lengths) / (512 * len(rows)) < 0.01
