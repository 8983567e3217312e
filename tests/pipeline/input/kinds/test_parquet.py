"""Parquet: row groups and damage."""

from pathlib import Path

import pytest

from oddsmill.schemas.errors import Refused
from tests.pipeline.input.files import KINDS, read


def test_a_damaged_page_of_a_parquet_file_is_refused_with_the_row_before_it(tmp_path: Path):
    content = bytearray(KINDS["rows.parquet"]([{"prompt": f"{n} text"} for n in range(1000)]))
    middle = len(content) // 2
    content[middle - 300 : middle] = bytes(300)
    (tmp_path / "rows.parquet").write_bytes(content)
    with pytest.raises(Refused, match=r"rows\.parquet, after row [1-9]\d+: the file is damaged"):
        read(tmp_path / "rows.parquet")
