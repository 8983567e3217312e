import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.drops import Dropped, Origin
from pipeline.sources import RawRow, describe_file, find_files, parse_json, plan_parts, read_batches
from schemas.errors import Refused


def read(*paths: Path) -> list[RawRow]:
    return [row for part in plan_parts([str(path) for path in paths]) for batch in read_batches(part) for row in batch]


def test_lines_end_with_a_newline_and_with_nothing_else(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    text = '{"a": "x\u2028y\u0085z"}\n\n  \r\n{"a": 2}\r\n{"a": 3}'
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    rows = read(file)
    assert [row.origin for row in rows] == [Origin(0, 0), Origin(0, 3), Origin(0, 4)]
    assert [parse_json(row.content)["a"] for row in rows if isinstance(row.content, bytes)] == [
        "x\u2028y\u0085z",
        2,
        3,
    ]


def test_a_row_is_the_same_in_a_compressed_file(tmp_path: Path):
    lines = b"".join(b'{"n": %d}\n' % number for number in range(600))
    (tmp_path / "rows.jsonl").write_bytes(lines)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines))
    plain, compressed = read(tmp_path / "rows.jsonl"), read(tmp_path / "rows.jsonl.gz")
    assert plain == compressed
    assert len(plain) == 600


def test_parquet_is_read_by_row_group_with_rows_numbered_through(tmp_path: Path):
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": [str(number) for number in range(10)]}), file, row_group_size=4)
    assert [(part.row_group, part.first_row) for part in plan_parts([str(file)])] == [(0, 0), (1, 4), (2, 8)]
    rows = read(file)
    assert [row.origin.row for row in rows] == list(range(10))
    assert [row.content for row in rows] == [{"prompt": str(number)} for number in range(10)]


def test_one_bad_text_of_a_parquet_file_spoils_its_own_row_only(tmp_path: Path):
    file = tmp_path / "rows.parquet"
    texts = pa.array([b"good", b"bad \xff", b"fine"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": texts}), file)
    assert [row.content for row in read(file)] == [{"prompt": "good"}, b"bad \xff", {"prompt": "fine"}]


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (b'{"prompt": "x"', "broken JSON at character 14"),
        (b'{"prompt": "\xff"}', r"byte 12 \(0xff\) is not UTF-8"),
        (b"[" * 100_000, "broken JSON: "),
        (b'{"n": ' + b"9" * 5000 + b"}", "broken JSON: "),
    ],
)
def test_what_is_unreadable_says_where(line: bytes, detail: str):
    with pytest.raises(Dropped, match=f"unreadable: {detail}"):
        parse_json(line)


def test_a_raw_row_is_shown_whole_even_if_it_is_not_text():
    assert RawRow(Origin(0, 0), b'{"a": "\xff\xc3\xa9"}').as_text() == '{"a": "\\xff\u00e9"}'
    assert RawRow(Origin(0, 0), {"b": "\u00e9", "a": None}).as_text() == '{"a": null, "b": "\u00e9"}'


def test_globs_and_lists_name_each_file_once_in_a_known_order(tmp_path: Path):
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        (tmp_path / name).touch()
    found = find_files([f"{tmp_path}/c.txt", f"{tmp_path}/*.jsonl", f"{tmp_path}/a.jsonl"])
    assert [Path(path).name for path in found] == ["c.txt", "a.jsonl", "b.jsonl"]


def test_a_file_whose_name_looks_like_a_glob_is_found(tmp_path: Path):
    (tmp_path / "rows[1].jsonl").touch()
    assert find_files([f"{tmp_path}/rows[1].jsonl"]) == [f"{tmp_path}/rows[1].jsonl"]


@pytest.mark.parametrize(
    ("path", "message"),
    [("nowhere.jsonl", "no such file"), ("*.nothing", "no file matches"), (".", "is a folder; give its files")],
)
def test_a_path_that_names_no_file_is_refused(tmp_path: Path, path: str, message: str):
    with pytest.raises(Refused, match=message):
        find_files([f"{tmp_path}/{path}"])


def test_a_compressed_file_cut_short_is_refused_with_its_last_row(tmp_path: Path):
    file = tmp_path / "rows.jsonl.gz"
    lines = b"".join(b'{"n": %d, "text": "%s"}\n' % (n, n.to_bytes(4, "big").hex().encode()) for n in range(5000))
    file.write_bytes(gzip.compress(lines)[:-2000])
    with pytest.raises(Refused, match=r"rows\.jsonl\.gz, after row [1-9]\d+: the file is damaged"):
        read(file)


def test_a_parquet_file_cut_short_is_refused(tmp_path: Path):
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": ["x"] * 1000}), file)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(Refused, match=r"rows\.parquet: damaged Parquet file"):
        read(file)


def test_a_file_is_described_by_size_and_digest(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    described = describe_file(str(tmp_path / "a"))
    assert described.bytes == 3
    assert described.sha256.startswith("ba7816bf")
