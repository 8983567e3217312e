import os
import resource

import numpy as np
import pyarrow as pa
import pytest

from oddsmill.pipeline.output.blocks import encode_block, open_blocks
from oddsmill.schemas.errors import Refused

SCHEMA = pa.schema({"rank": pa.int32(), "id": pa.uint64(), "text": pa.large_binary(), "more": pa.large_binary()})


def block(*lines: tuple[int, int, bytes, bytes]) -> bytes:
    return encode_block(pa.table(list(zip(*lines, strict=True)), SCHEMA))


def test_items_come_back_in_the_order_of_the_blocks_whatever_their_bytes():
    first = block((3, 2**64 - 1, b"abc", b""), (1, 0, b"", b"\n"))
    second = block((2, 7, b"\x00\xff" * 100, b"x"))
    with open_blocks(SCHEMA, [first, second]) as items:
        assert len(items) == 3
        assert items.columns["rank"].tolist() == [3, 1, 2] and items.columns["id"].tolist() == [2**64 - 1, 0, 7]
        assert [items.payload("text", index) for index in range(3)] == [b"abc", b"", b"\x00\xff" * 100]
        assert [items.payload("more", index) for index in range(3)] == [b"", b"\n", b"x"]
        taken = items.take(np.array([2, 0]))
        assert taken.columns["id"].tolist() == [7, 2**64 - 1] and taken.payload("text", 0) == b"\x00\xff" * 100


def test_a_block_may_be_a_part_of_a_table_and_holds_no_more():
    """The blocks of a shard are parts of a table."""
    lines = [(number, number, bytes([number]) * number, b"") for number in range(256)]
    part = encode_block(pa.table(list(zip(*lines, strict=True)), SCHEMA).slice(100, 2))
    assert len(part) == len(block(*lines[100:102]))
    with open_blocks(SCHEMA, [part]) as items:
        assert [items.payload("text", index) for index in range(len(items))] == [line[2] for line in lines[100:102]]


def test_a_table_in_chunks_is_one_block():
    parts = [pa.table(list(zip(*lines, strict=True)), SCHEMA) for lines in ([(1, 2, b"a", b"")], [(3, 4, b"b", b"c")])]
    with open_blocks(SCHEMA, [encode_block(pa.concat_tables(parts))]) as items:
        assert items.columns["id"].tolist() == [2, 4]
        assert [items.payload("text", index) for index in range(2)] == [b"a", b"b"]


def test_blocks_may_be_compressed_in_two_ways():
    table = pa.table([[1], [2], [b"a" * 100], [b"b" * 100]], SCHEMA)
    blocks = [encode_block(table, "lz4"), encode_block(table, "zstd")]
    assert blocks[0] != blocks[1]
    with open_blocks(SCHEMA, blocks) as items:
        assert items.columns["id"].tolist() == [2, 2]
        assert items.join("text", np.array([1, 0])) == b"a" * 200


def test_no_block_gives_no_item():
    with open_blocks(SCHEMA, []) as items:
        assert len(items) == 0 and items.columns["rank"].tolist() == []


def test_nothing_of_the_blocks_is_held_beside_the_items():
    blocks = [block(*[(number, number, b"text", b"")] * 1000) for number in range(9)]
    before = pa.total_allocated_bytes()
    with open_blocks(SCHEMA, blocks) as items:
        assert len(items) == 9000 and pa.total_allocated_bytes() == before


@pytest.mark.parametrize("sizes", [(90_000, 20_000), (99_990, 20), (3_000_000,)])
def test_a_full_disk_is_refused(sizes: tuple[int, ...]):
    """Also where the last bytes alone have no room."""
    blocks = [block((1, 2, b"", os.urandom(size))) for size in sizes]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(Refused, match="set TMPDIR to a folder with space"), open_blocks(SCHEMA, blocks):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
