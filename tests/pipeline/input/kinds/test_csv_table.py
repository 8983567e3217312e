"""CSV and TSV: broken records and headers."""

from collections.abc import Callable
from pathlib import Path

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
