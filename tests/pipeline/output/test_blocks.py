import numpy as np

from oddsmill.pipeline.output.blocks import encode_block, open_blocks


def test_items_come_back_in_the_order_of_the_blocks_whatever_their_bytes():
    first = encode_block(("rank", "id"), [((3, 2**64 - 1), b"abc"), ((1, 0), b"")])
    second = encode_block(("rank", "id"), [((2, 7), b"\x00\xff" * 100)])
    with open_blocks(("rank", "id"), [first, second]) as items:
        assert len(items) == 3
        assert items.columns["rank"].tolist() == [3, 1, 2] and items.columns["id"].tolist() == [2**64 - 1, 0, 7]
        assert [items.payload(index) for index in range(3)] == [b"abc", b"", b"\x00\xff" * 100]
        taken = items.take(np.array([2, 0]))
        assert taken.columns["id"].tolist() == [7, 2**64 - 1] and taken.payload(0) == b"\x00\xff" * 100


def test_no_block_gives_no_item():
    with open_blocks(("rank",), []) as items:
        assert len(items) == 0 and items.columns["rank"].tolist() == []
