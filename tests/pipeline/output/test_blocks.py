import numpy as np
import pytest

from oddsmill.pipeline.output.blocks import freeze, thawing

NAMES = ("rank", "id")
ITEMS = [((7, 2**64 - 1), b"seven"), ((0, 1), b""), ((3, 2), b"three")]


def test_items_come_back_in_the_order_of_the_blocks():
    blocks = [freeze(NAMES, ITEMS[:2]), freeze(NAMES, ITEMS[2:])]
    with thawing(NAMES, blocks) as items:
        assert len(items) == 3
        assert items.columns["rank"].tolist() == [7, 0, 3]
        assert items.columns["id"].tolist() == [2**64 - 1, 1, 2]
        assert [items.payload(index) for index in range(3)] == [b"seven", b"", b"three"]


def test_an_order_moves_integers_and_bytes_alike():
    with thawing(NAMES, [freeze(NAMES, ITEMS)]) as items:
        taken = items.take(np.array([2, 0]))
        assert taken.columns["rank"].tolist() == [3, 7]
        assert [taken.payload(index) for index in range(len(taken))] == [b"three", b"seven"]


def test_no_block_holds_no_item():
    with thawing(NAMES, []) as items:
        assert len(items) == 0 and items.columns["id"].dtype == np.uint64


def test_a_block_is_smaller_than_what_it_holds():
    payload = b"the same text again and again " * 100
    assert len(freeze(NAMES, [((1, 1), payload)])) < len(payload) / 4


def test_an_integer_out_of_range_is_an_error():
    with pytest.raises((OverflowError, ValueError)):
        freeze(NAMES, [((-1, 0), b"")])
