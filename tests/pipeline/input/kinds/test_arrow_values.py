"""Values of Arrow's types as JSON has them."""

import json
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from oddsmill.pipeline.input.kinds.arrow import number_rows
from oddsmill.pipeline.input.kinds.arrow_values import is_plain

TEXTS = {"key": b"value"}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (pa.array(["a"]), "a"),
        (pa.array(["a"], pa.large_string()), "a"),
        (pa.array(["a"], pa.string_view()), "a"),
        (pa.array(["a"]).dictionary_encode(), "a"),
        (pa.RunEndEncodedArray.from_arrays([1], ["a"]), "a"),
        (pa.array([b"a"]), "a"),
        (pa.array([b"a"], pa.large_binary()), "a"),
        (pa.array([b"a"], pa.binary_view()), "a"),
        (pa.array([b"a"], pa.binary(1)), "a"),
        (pa.array([b"a"]).dictionary_encode(), "a"),
        (pa.array([Decimal("4.50")]), 4.5),
        (pa.array([Decimal("4.00")]), 4),
        (pa.array([[Decimal("1.5")]]), [1.5]),
        (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
        (pa.array([1.5], pa.float16()), 1.5),
        (pa.array([[1]], pa.list_view(pa.int8())), [1]),
        (pa.array([[1, 2]], pa.list_(pa.int8(), 2)), [1, 2]),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())), {"k": 1}),
        (pa.array([[]], pa.map_(pa.string(), pa.int8())), {}),
        (pa.array([[(1, b"v")]], pa.map_(pa.int8(), pa.binary())), {"1": "v"}),
        (pa.array([[[("k", b"v")]]], pa.list_(pa.map_(pa.string(), pa.binary()))), [{"k": "v"}]),
        (pa.array([{"a": b"x", "b": None}]), {"a": "x", "b": None}),
        (pa.array([1], pa.timestamp("ns")), "1970-01-01 00:00:00.000000001"),
        (pa.array([[1]], pa.list_(pa.timestamp("ns"))), ["1970-01-01 00:00:00.000000001"]),
        (pa.array([{"at": 1}], pa.struct([("at", pa.date32())])), {"at": "1970-01-02"}),
        (pa.array([2**60], pa.timestamp("s")), "<value out of range: 1152921504606846976>"),
        (pa.array([3_000_000], pa.date32()), "10183-09-21"),
        (pa.array([1], pa.time64("ns")), "00:00:00.000000001"),
        (pa.array([7], pa.duration("ns")), 7),
        (pa.array([b"\0" * 15 + b"\1"], pa.uuid()), "00000000-0000-0000-0000-000000000001"),
        (pa.nulls(1), None),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_a_value_of_any_type_is_one_that_json_has(column: pa.Array, value: Any):
    (row,) = number_rows(iter([pa.record_batch({"a": column})]), 0, range(1))
    assert row.content == {"a": value} and row.problem is None
    assert json.loads(json.dumps(row.content)) == row.content


def test_columns_of_texts_and_numbers_cost_nothing():
    kinds = [pa.string(), pa.large_string(), pa.list_(pa.struct([("role", pa.string()), ("n", pa.float64())]))]
    assert all(map(is_plain, kinds))
    assert not is_plain(pa.list_(pa.struct([("role", pa.binary())])))
