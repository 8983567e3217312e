import dataclasses
import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsmill.schemas.record import Pair, Row, Truncated, check_row, decode_row, encode_row, make_row, token_dtype

ids = st.lists(st.integers(0, 999), min_size=1, max_size=9)


def runs(is_unscored: list[bool]) -> tuple[tuple[int, int], ...]:
    """The runs of true entries."""
    edges = np.flatnonzero(np.diff([False, *is_unscored, False])).tolist()
    return tuple(zip(edges[::2], edges[1::2], strict=True))


@st.composite
def pairs_of_turns(draw) -> Pair:
    """Pairs some of whose answers' tokens, but never all of them, are unscored."""
    sides = {side: draw(ids) for side in ("prompt", "chosen", "rejected")}
    for side in ("chosen", "rejected"):
        size = len(sides[side])
        flags = draw(st.lists(st.booleans(), min_size=size, max_size=size).filter(lambda flags: not all(flags)))
        sides[f"unscored_{side}"] = runs(flags)
    return Pair(**sides, id=draw(st.integers(0, 2**64 - 1)), truncated=Truncated(draw(st.integers(0, 7))))


whole_pairs = st.builds(
    Pair,
    prompt=ids,
    chosen=ids,
    rejected=ids,
    id=st.integers(0, 2**64 - 1),
    truncated=st.integers(0, 7).map(Truncated),
)
pairs = whole_pairs | pairs_of_turns()


def make(*pairs: Pair, row_length: int = 16, vocab_size: int = 1000) -> Row:
    return make_row(pairs, row_length=row_length, pad_id=0, vocab_size=vocab_size)


PAIR = Pair(prompt=[10, 11, 12], chosen=[20, 21, 2], rejected=[30, 2], id=7)


def test_a_row_stands_as_drawn():
    row = make(PAIR, Pair(prompt=[13], chosen=[22], rejected=[2], id=8, truncated=Truncated.CHOSEN))
    # fmt: off
    assert row.tokens.tolist() == [10, 11, 12,  20, 21, 2,  30, 2,  13,  22,  2,  0, 0, 0, 0, 0]
    # fmt: on
    assert row.prompt_lengths.tolist() == [3, 1]
    assert row.chosen_lengths.tolist() == [3, 1]
    assert row.rejected_lengths.tolist() == [2, 1]
    assert row.pair_ids.tolist() == [7, 8]
    assert row.truncated.tolist() == [0, 2]
    assert row.num_tokens == 11


@pytest.mark.properties
@given(st.lists(pairs, min_size=1, max_size=5), st.sampled_from([1000, 70_000]))
def test_a_row_comes_back_from_its_record(pairs: list[Pair], vocab_size: int):
    row = make(*pairs, row_length=sum(map(len, pairs)) + 3, vocab_size=vocab_size)
    back = decode_row(encode_row(row), row_length=len(row.tokens))
    assert list(back.pairs()) == pairs
    for name, values in vars(row).items():
        np.testing.assert_array_equal(getattr(back, name), values)
        assert getattr(back, name).dtype == values.dtype


def test_unscored_tokens_stand_as_drawn():
    """The tool's turn of an answer: `22 23` of the first chosen, `31` of the second rejected."""
    first = dataclasses.replace(PAIR, chosen=[20, 22, 23, 21], unscored_chosen=((1, 3),))
    second = dataclasses.replace(PAIR, prompt=[13], chosen=[2], rejected=[30, 31, 2], unscored_rejected=((1, 2),))
    row = make(first, second)
    # fmt: off
    assert row.tokens.tolist() == [10, 11, 12,  20, 22, 23, 21,  30, 2,  13,  2,  30, 31, 2,  0, 0]
    slots =                       [ 0,  1,  2,   3,  4,  5,  6,   7, 8,   9, 10,  11, 12, 13]
    # fmt: on
    assert row.unscored.tolist() == [[slots[4], slots[6]], [slots[12], slots[13]]]
    assert row.unscored_tokens().tolist() == [[0, 2, 0], [0, 0, 1]]
    assert list(decode_row(encode_row(row), row_length=len(row.tokens)).pairs()) == [first, second]


def test_only_a_row_with_unscored_tokens_is_of_version_2():
    """So a reader that knows version 1 alone reads what it always did, and refuses what it would take for scored."""
    of_turns = make(dataclasses.replace(PAIR, unscored_chosen=((1, 2),)))
    for row, version in ((make(PAIR), b"1"), (of_turns, b"2")):
        schema = pa.ipc.read_schema(pa.py_buffer(encode_row(row)))
        assert schema.metadata[b"oddsmill.schema_version"] == version
        assert ("unscored" in schema.names) == (version == b"2")
    assert hashlib.sha256(encode_row(make(PAIR))).hexdigest()[:16] == "2bf4c61d31f400fb"


def test_equal_rows_give_equal_bytes():
    assert encode_row(make(PAIR)) == encode_row(make(PAIR))
    assert encode_row(make(PAIR)) != encode_row(make(dataclasses.replace(PAIR, id=8)))


def test_ids_take_two_bytes_where_the_vocabulary_allows():
    assert token_dtype(65_536) == np.uint16
    assert token_dtype(65_537) == np.int32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": []}, "chosen has 0 tokens"),
        ({"rejected": []}, "rejected has 0 tokens"),
        ({"prompt": []}, "prompt has 0 tokens"),
        ({"chosen": [1000]}, "outside the vocabulary"),
        ({"chosen": [-1]}, "outside the vocabulary"),
        ({"prompt": [1] * 14}, "do not fit a row of 16"),
    ],
)
def test_a_pair_that_breaks_an_invariant_is_not_laid(change: dict[str, list[int]], message: str):
    with pytest.raises(ValueError, match=message):
        make(dataclasses.replace(PAIR, **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": np.full(16, 1000, np.uint16)}, "outside the vocabulary"),
        ({"tokens": np.zeros(15, np.uint16)}, "has 15 slots, 16 are declared"),
        ({"chosen_lengths": np.array([0], np.int32)}, "chosen has 0 tokens"),
        ({"rejected_lengths": np.array([11], np.int32)}, "17 tokens do not fit"),
        ({"prompt_lengths": np.array([1, 1], np.int32)}, "prompt_lengths has 2 entries for 1 pairs"),
        ({"pair_ids": np.zeros(0, np.uint64)}, "holds no pair"),
        ({"unscored": np.array([[1, 2]], np.int32)}, "pair 0: tokens of the prompt are unscored"),
        ({"unscored": np.array([[3, 6]], np.int32)}, "pair 0: chosen has no scored token"),
        ({"unscored": np.array([[4, 5], [6, 8]], np.int32)}, "pair 0: rejected has no scored token"),
        ({"unscored": np.array([[5, 7]], np.int32)}, "each inside one answer"),
        ({"unscored": np.array([[7, 9]], np.int32)}, "each inside one answer"),
        ({"unscored": np.array([[-1, 1]], np.int32)}, "each inside one answer"),
        ({"unscored": np.array([[4, 4]], np.int32)}, "each inside one answer"),
        ({"unscored": np.array([[3, 4], [4, 5]], np.int32)}, "each inside one answer"),
        ({"unscored": np.array([[7, 8], [3, 4]], np.int32)}, "each inside one answer"),
    ],
)
def test_a_row_that_breaks_an_invariant_is_found(change: dict[str, np.ndarray], message: str):
    with pytest.raises(ValueError, match=message):
        check_row(dataclasses.replace(make(PAIR), **change), row_length=16, vocab_size=1000)


def test_more_pairs_than_declared_are_found():
    with pytest.raises(ValueError, match="holds 2 pairs, at most 1"):
        check_row(make(PAIR, PAIR), row_length=16, vocab_size=1000, max_pairs=1)


def test_what_is_no_record_of_ours_is_refused():
    with pytest.raises(ValueError, match="not an Arrow IPC stream"):
        decode_row(b"no record", row_length=16)
    batch = pa.record_batch({"tokens": [[1, 2]]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(ValueError, match="schema version none"):
        decode_row(sink.getvalue().to_pybytes(), row_length=16)


def test_a_record_of_another_length_or_with_compressed_columns_is_refused_before_it_takes_memory():
    row = make(PAIR)
    with pytest.raises(ValueError, match="the row has 16 slots, 15 are declared"):
        decode_row(encode_row(row), row_length=15)
    batch = pa.ipc.open_stream(encode_row(row)).read_next_batch()
    columns = [*batch.columns[:1], pa.array([[1] * 1_000_000], pa.list_(pa.int32())), *batch.columns[2:]]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(pa.record_batch(columns, schema=batch.schema))
    before = pa.total_allocated_bytes()
    with pytest.raises(ValueError, match="its columns are compressed, which those of a row are not"):
        decode_row(sink.getvalue().to_pybytes(), row_length=16)
    assert pa.total_allocated_bytes() - before < 1_000_000


def test_flags_have_the_names_of_the_sides():
    assert Truncated(5).names() == ["prompt", "rejected"]
    assert Truncated(0).names() == []


def test_a_record_that_is_cut_or_has_another_bit_is_a_row_or_refused():
    """Each bit, and each length. Never an error of another kind, nor a process that is gone: lengths are not read
    beyond what is there.
    """
    of_turns = dataclasses.replace(PAIR, unscored_chosen=((1, 2),), unscored_rejected=((0, 1),))
    for record in (encode_row(make(PAIR, PAIR)), encode_row(make(of_turns))):
        _check_altered(record)


def _check_altered(record: bytes) -> None:
    changed = [bytearray(record) for _ in range(8 * len(record))]
    for bit, copy in enumerate(changed):
        copy[bit // 8] ^= 1 << bit % 8
    refused = 0
    for altered in (*changed, *(record[:end] for end in range(len(record)))):
        try:
            check_row(decode_row(bytes(altered), row_length=16), row_length=16, vocab_size=1000)
        except ValueError:
            refused += 1
    assert len(record) < refused < len(changed)
