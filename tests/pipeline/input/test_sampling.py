"""The sample of `plan`: spread over the input, deterministic, with the right number of rows."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.input.sampling import find_row, sample_rows
from oddsmill.pipeline.input.sources import find_inputs


@pytest.fixture
def parquet(tmp_path: Path, triples: Callable) -> Path:
    """100 rows in 20 row groups, so in 20 parts."""
    pq.write_table(pa.Table.from_pylist(triples(100)), tmp_path / "rows.parquet", row_group_size=5)
    return tmp_path / "rows.parquet"


def take(*paths: Path, size: int, parts_read: int = 32) -> tuple[list[tuple[int, int]], int]:
    sample = sample_rows(find_inputs(SourceConfig(path=[str(path) for path in paths])), size, parts_read=parts_read)
    return [tuple(row.origin) for row in sample.rows], sample.total_rows


@pytest.mark.parametrize("size", [7, 10, 99])
def test_rows_are_spread_evenly_over_all_files(write_rows: Callable, triples: Callable, parquet: Path, size: int):
    lines = write_rows("rows.jsonl", triples(100))
    origins, total = take(lines, parquet, size=size)
    places = [file * 100 + row for file, row in origins]
    assert (places, total) == ([place * 200 // size for place in range(size)], 200)


def test_a_small_input_is_taken_whole_and_blank_lines_are_no_rows(write_rows: Callable, triples: Callable):
    rows = triples(10)
    path = write_rows("rows.jsonl", [*rows[:5], b"", b"  ", *rows[5:]])
    assert take(path, size=50) == ([(0, row) for row in (0, 1, 2, 3, 4, 7, 8, 9, 10, 11)], 10)


def test_of_many_parts_some_are_read_and_the_total_is_that_of_all(parquet: Path):
    origins, total = take(parquet, size=8, parts_read=4)
    assert total == 100
    assert [row // 5 for _, row in origins] == [0, 0, 5, 5, 10, 10, 15, 15]


def test_a_row_is_found_without_a_look_at_the_other_inputs(write_rows: Callable, triples: Callable):
    paths = [write_rows(name, triples(3)) for name in ("a.jsonl", "b.jsonl", "c.jsonl")]
    inputs = find_inputs(SourceConfig(path=[str(path) for path in paths]))
    paths[0].unlink()
    row = find_row(inputs, "b.jsonl:2", None)
    assert row.origin == (1, 2) and row.values() == triples(3)[2]
