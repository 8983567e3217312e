"""Slices are those of `datasets`."""

from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oddsmill.pipeline.input.splits import slice_rows
from oddsmill.schemas.errors import Refused


@pytest.mark.parametrize("rows", [7, 99, 150])
def test_slices_are_those_of_datasets(tmp_path: Path, rows: int):
    pq.write_table(pa.table({"n": range(rows)}), tmp_path / "rows.parquet")
    for bounds in (":5%", "33%:66%", "-7:", "2:5", "50%:-1%", "10%:", "-50%:"):
        try:
            loaded = datasets.load_dataset(
                "parquet",
                data_files={"train": str(tmp_path / "rows.parquet")},
                split=f"train[{bounds}]",
                cache_dir=str(tmp_path / "cache"),
            )
            expected = list(loaded["n"])
        except ValueError:  # how datasets says that there is no row
            expected = []
        try:
            found = list(slice_rows(f"train[{bounds}]", rows, "here"))
        except Refused as refused:
            found = []
            assert "is empty: here has" in str(refused)  # noqa: PT017
        assert found == expected, bounds
