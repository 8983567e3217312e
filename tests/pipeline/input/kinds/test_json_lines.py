"""JSON lines: where a line ends, and ranges of any size."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.input.parts import divide
from oddsmill.pipeline.input.sources import find_inputs
from oddsmill.schemas.drops import Origin
from tests.pipeline.input.files import read

LINES = st.lists(st.text(st.sampled_from("a\r é\u2028\u0085\U0001f600"), max_size=6), max_size=12)


@pytest.mark.properties
@given(lines=LINES, last_newline=st.booleans(), mark=st.booleans(), part_bytes=st.integers(1, 40))
def test_ranges_of_any_size_give_the_same_rows_and_numbers(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], last_newline: bool, mark: bool, part_bytes: int
):
    file = tmp_path_factory.mktemp("ranges") / "rows.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" * mark + "\n".join(lines).encode() + b"\n" * last_newline)
    expected = [
        (Origin(0, number), line.encode().rstrip(b"\r")) for number, line in enumerate(lines) if line.encode().strip()
    ]
    assert [row[:2] for row in read(file)] == expected
    assert [row[:2] for row in read(file, part_bytes=part_bytes)] == expected
    assert len(divide(0, find_inputs(SourceConfig(path=str(file)))[0], part_bytes=part_bytes)) == max(
        1, -(-file.stat().st_size // part_bytes)
    )


def test_lines_end_with_a_newline_and_with_nothing_else(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    text = '{"a": "x\u2028y\u0085z"}\n\n  \r\n{"a": 2}\r\n{"a": 3}'
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    rows = read(file)
    assert [row.origin for row in rows] == [Origin(0, 0), Origin(0, 3), Origin(0, 4)]
    assert [row.values()["a"] for row in rows] == ["x\u2028y\u0085z", 2, 3]


def test_a_file_of_lines_may_begin_with_a_row_that_is_a_list(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_bytes(b'[1, 2]\n{"a": 3}\n')
    assert [row.values() for row in read(tmp_path / "rows.jsonl")] == [[1, 2], {"a": 3}]


def test_the_mark_of_utf8_begins_any_line_where_files_were_joined(tmp_path: Path):
    mark = b"\xef\xbb\xbf"
    (tmp_path / "rows.jsonl").write_bytes(
        mark + b'{"a": 1}\n' + mark + b'{"a": 2}\n' + mark + b'\n{"a": "\xef\xbb\xbf"}'
    )
    rows = read(tmp_path / "rows.jsonl")
    assert [(row.origin.row, row.values()["a"]) for row in rows] == [(0, 1), (1, 2), (3, "\ufeff")]
