"""CSV and TSV: broken records and headers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oddsmill.schemas.drops import Dropped
from oddsmill.schemas.errors import Refused
from tests.pipeline.input.files import as_csv, read


def test_every_record_of_a_dirty_csv_file_is_a_pair_or_a_reject(run: Callable, triples: Callable, tmp_path: Path):
    dirty = b'only one\r\na,b,c,d\r\n"x"y,b,c\r\n\xff,b,c\r\n,b,c\r\n'
    (tmp_path / "rows.csv").write_bytes(as_csv(triples(10), ",") + dirty + b"p,c,r\r\n")
    result = run("out", tmp_path / "rows.csv")
    assert [(reject["row"], reject["reason"], reject["raw"]) for reject in result.rejects] == [
        (10, "unreadable", "only one"),
        (11, "unreadable", "a,b,c,d"),
        (12, "unreadable", '"x"y,b,c'),
        (13, "unreadable", "\\xff,b,c"),
        (14, "empty_prompt", '{"chosen": "b", "prompt": "", "rejected": "c"}'),
    ]
    assert (result.manifest["ledger"]["rows_in"], result.manifest["ledger"]["pairs_out"]) == (16, 11)


def test_a_bad_record_of_a_csv_file_spoils_its_own_row_only(tmp_path: Path):
    file = tmp_path / "rows.csv"
    file.write_bytes(b'a,b\r\n1,2\r\n\r\n3\r\n4,5,6\r\n"7"x,8\r\n\xff,9\r\n"10\n11",12\r\n')
    rows = read(file)
    assert [row.origin.row for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [row.problem for row in rows] == [
        None,
        "1 fields where the header has 2",
        "3 fields where the header has 2",
        "broken CSV: ',' expected after '\"'",
        "byte 0 (0xff) is not UTF-8",
        None,
    ]
    assert [row.as_text() for row in rows[1:5]] == ["3", "4,5,6", '"7"x,8', "\\xff,9"]
    assert rows[5].values() == {"a": "10\n11", "b": "12"}
    with pytest.raises(Dropped, match="unreadable: 1 fields"):
        rows[1].values()


def test_a_quote_that_is_never_closed_is_refused_with_the_row_before_it(tmp_path: Path):
    (tmp_path / "rows.csv").write_bytes(b'a,b\n1,2\n3,4\n5,"6\n7,8\n')
    with pytest.raises(Refused, match=r"rows\.csv, after row 1: a quoted field has no end"):
        read(tmp_path / "rows.csv")


def test_a_header_that_names_a_field_twice_is_refused(tmp_path: Path):
    (tmp_path / "rows.csv").write_bytes(b"a,b,a\n1,2,3\n")
    with pytest.raises(Refused, match=r"the header has 'a' more than once"):
        read(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("index.csv", b",a,b\n0,1,2\n1,3,4\n"),
        ("spaces.csv", b"a , b\n1,2\n3,4\n"),
        ("blank.csv", b"\n\na,b\n1,2\n3,4"),
        ("dos.csv", b"\xef\xbb\xbfa,b\r\n1,2\r\n3,4\r\n"),
        ("tabs.tsv", b"a\tb\n1\t2\n3\t4\n"),
        ("two unnamed.csv", b",a,b,\n0,1,2,x\n1,3,4,y\n"),
    ],
)
def test_headers_of_every_kind(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    assert [row.values() for row in read(tmp_path / name)] == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_the_header_of_a_joined_file_is_no_row(tmp_path: Path):
    (tmp_path / "rows.csv").write_bytes(b'\xef\xbb\xbfa,b\n1,"\xef\xbb\xbf\n\xef\xbb\xbf"\n\xef\xbb\xbfa,b\n3,4\n')
    first, header, last = read(tmp_path / "rows.csv")
    assert first.values() == {"a": "1", "b": "\ufeff\n\ufeff"} and last.values() == {"a": "3", "b": "4"}
    assert header.problem == "the header once more: files were joined"


@pytest.mark.parametrize(
    ("name", "header", "message"),
    [
        ("rows.csv", b"a;b", r"the header is one field, 'a;b'.*by a comma.*yours were by a semicolon"),
        ("rows.csv", b"a\tb", "yours were by a tab"),
        ("rows.tsv", b"a,b", "by a tab here.*yours were by a comma"),
        ("rows.csv", b'"a", "b"', "a space before a quote in the header"),
    ],
)
def test_another_separator_is_refused_by_name(tmp_path: Path, name: str, header: bytes, message: str):
    (tmp_path / name).write_bytes(header + b"\n1;2\n")
    with pytest.raises(Refused, match=message):
        read(tmp_path / name)


CR_ALONE = "a carriage return (CR) alone, outside quotes, ends no row: write the ends of rows as LF or CR LF"


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"a,b\n1,2\r3,4\n5,6\n", [CR_ALONE, {"a": "5", "b": "6"}]),
        (b'a,b\n"1","2"\r"3","4"\n', [CR_ALONE]),
        (b"a,b\n\r1,2\n", [CR_ALONE]),
        (b'a,b\n"1\r",2\n', [{"a": "1\r", "b": "2"}]),
        (b"a,b\r\r\n1,2\r\n3,4\r", [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]),
    ],
)
def test_a_carriage_return_alone_makes_no_other_rows(tmp_path: Path, content: bytes, rows: list[Any]):
    (tmp_path / "rows.csv").write_bytes(content)
    assert [row.problem or row.values() for row in read(tmp_path / "rows.csv")] == rows


def test_a_file_whose_rows_end_in_carriage_returns_is_refused(tmp_path: Path):
    (tmp_path / "rows.csv").write_bytes(b"a,b\r1,2\r3,4\r")
    with pytest.raises(Refused, match=r"broken header: a carriage return \(CR\) alone"):
        read(tmp_path / "rows.csv")


def test_a_header_alone_has_no_rows(tmp_path: Path):
    (tmp_path / "rows.csv").write_bytes(b"a,b\n")
    assert read(tmp_path / "rows.csv") == []
