import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsmill.schemas.stored.record_stream import LISTS, fill_record


@pytest.mark.properties
@given(st.integers(1, 40), st.integers(0, 9), st.integers(1, 9), st.integers(0, 3), st.sampled_from(["u2", "i4"]))
def test_a_record_is_the_stream_that_arrow_writes(slots: int, padding: int, pairs: int, runs: int, dtype: str):
    rng = np.random.default_rng(slots)
    tokens, sizes = rng.integers(0, 1000, slots).astype(dtype), [pairs] * 5 + [2 * runs]
    lists = [rng.integers(0, 99, size).astype(kind) for size, kind in zip(sizes, LISTS.values(), strict=True)]
    stored = np.append(tokens, np.full(padding, 7, dtype))
    columns: dict[str, pa.Array] = {"tokens": pa.FixedSizeListArray.from_arrays(pa.array(stored), len(stored))}
    for name, values in zip(LISTS, lists, strict=True):
        if name != "unscored" or runs:
            columns[name] = pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), pa.array(values))
    sink = pa.BufferOutputStream()
    table = pa.table(columns).replace_schema_metadata({"oddsmill.schema_version": "2" if runs else "1"})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert fill_record(tokens, stored[slots:], lists) == sink.getvalue().to_pybytes()
