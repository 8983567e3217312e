import csv
import gzip
import io
import json
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.drops import Dropped, Origin
from oddsmill.pipeline.input.parts import count_part, divide, number_parts, read_batches, read_in_order
from oddsmill.pipeline.input.rows import RawRow, parse_json
from oddsmill.pipeline.input.sources import find_files, find_inputs
from oddsmill.schemas.errors import Refused
from tests import disk_store  # noqa: F401 - serves store://


def read(*paths: Path | str, part_bytes: int = 32 << 20, **settings: Any) -> list[RawRow]:
    """The rows as the workers read them: every input divided, counted, numbered, each part on its own."""
    inputs = find_inputs(SourceConfig(path=[str(path) for path in paths], **settings))
    return [
        row
        for number, source in enumerate(inputs)
        for part in number_parts(source, map(count_part, divide(number, source, part_bytes=part_bytes)[::-1]))
        for batch in read_batches(part)
        for row in batch
    ]


def as_csv(rows: list[dict[str, str]], delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_arrow(rows: list[dict[str, Any]], new: Callable[..., Any]) -> bytes:
    table, sink = pa.Table.from_pylist(rows), io.BytesIO()
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return sink.getvalue()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=7)
    return sink.getvalue()


def zstd(content: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(content, asbytes=True))


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


KINDS: dict[str, Callable[[list[dict[str, str]]], bytes]] = {
    "rows.jsonl": as_lines,
    "lines.json": as_lines,
    "rows.jsonl.gz": lambda rows: gzip.compress(as_lines(rows)),
    "members.jsonl.gz": lambda rows: gzip.compress(as_lines(rows[:9])) + gzip.compress(as_lines(rows[9:])),
    "rows.jsonl.zst": lambda rows: zstd(as_lines(rows)),
    "frames.jsonl.zst": lambda rows: zstd(as_lines(rows[:9])) + zstd(as_lines(rows[9:])),
    "array.json": lambda rows: json.dumps(rows, indent=2).encode(),
    "array.json.gz": lambda rows: gzip.compress(json.dumps(rows).encode()),
    "array.json.zst": lambda rows: zstd(json.dumps(rows).encode()),
    "rows.csv": lambda rows: as_csv(rows, ","),
    "rows.csv.gz": lambda rows: gzip.compress(as_csv(rows, ",")),
    "rows.tsv": lambda rows: b"\xef\xbb\xbf" + as_csv(rows, "\t"),
    "rows.parquet": as_parquet,
    "file.arrow": lambda rows: as_arrow(rows, pa.ipc.new_file),
    "stream.arrow": lambda rows: as_arrow(rows, pa.ipc.new_stream),
}


@pytest.fixture
def nasty(triples: Callable) -> list[dict[str, str]]:
    """Rows whose texts hold what divides rows, fields and texts in one kind of file or another."""
    texts = ['a "quoted", text', "two\nlines", "dos\r\nlines", "\u2028\u0085\t;", "]}[{,\\", "\x00 \U0001f600 é", ""]
    return [row | {"note": texts[number % len(texts)]} for number, row in enumerate(triples(50))]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_has_the_same_rows(tmp_path: Path, nasty: list, name: str):
    (tmp_path / name).write_bytes(KINDS[name](nasty))
    for rows in (
        read(tmp_path / name),
        read(tmp_path / name, part_bytes=1000),
        list(read_in_order(find_inputs(SourceConfig(path=str(tmp_path / name))))),
    ):
        assert [row.origin for row in rows] == [Origin(0, number) for number in range(50)]
        assert [row.values() for row in rows] == nasty
        assert {row.as_bytes() for row in rows} == {json.dumps(n, sort_keys=True).encode() for n in nasty}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_is_read_from_a_store(tmp_path: Path, nasty: list, name: str):
    (tmp_path / name).write_bytes(KINDS[name](nasty))
    (source,) = find_inputs(SourceConfig(path=f"store:/{tmp_path}/*"))
    assert (source.path, source.bytes) == (f"store:/{tmp_path}/{name}", (tmp_path / name).stat().st_size)
    rows = read(f"store:/{tmp_path}/*", part_bytes=300)
    assert [(row.origin.row, row.values()) for row in rows] == list(enumerate(nasty))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("store://nowhere/rows.jsonl", r"--source\.path=store://nowhere/rows\.jsonl: no such file"),
        ("store://nowhere/*.jsonl", r"--source\.path=store://nowhere/\*\.jsonl: no file matches"),
    ],
)
def test_a_path_of_a_store_that_names_no_file_is_refused(path: str, message: str):
    with pytest.raises(Refused, match=message):
        find_files([path])


@pytest.mark.parametrize("name", ["array.json.zst", "rows.csv", "rows.parquet", "file.arrow", "stream.arrow"])
def test_every_kind_of_file_makes_the_same_dataset(
    run: Callable, write_rows: Callable, nasty: list, tmp_path: Path, name: str
):
    (tmp_path / name).write_bytes(KINDS[name](nasty))
    lines = run("lines", write_rows("rows.jsonl", nasty)).digests
    assert run("other", tmp_path / name).digests == lines
    assert "manifest.json" in lines


def test_a_run_on_many_ranges_makes_the_same_dataset(
    run: Callable, write_rows: Callable, triples: Callable, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    path = write_rows("rows.jsonl", triples(100))
    whole = run("whole", path)
    monkeypatch.setattr("oddsmill.pipeline.transforms.divide", partial(divide, part_bytes=500))
    for name, beam in (("ranges", ()), ("threads", ("--direct_num_workers=2",))):
        parts = run(name, path, beam=beam)
        assert parts.digests == whole.digests
        assert {p["id"]: p["source"] for p in parts.pairs(capsys)} == {
            p["id"]: p["source"] for p in whole.pairs(capsys)
        }


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


def test_parquet_and_arrow_are_divided_where_their_format_is(tmp_path: Path):
    rows = [{"prompt": str(number)} for number in range(20)]
    for name in ("rows.parquet", "file.arrow"):
        (tmp_path / name).write_bytes(KINDS[name](rows))
        (source,) = find_inputs(SourceConfig(path=str(tmp_path / name)))
        parts = number_parts(source, map(count_part, divide(0, source, part_bytes=1)))
        assert [(*part.part.span[:2], part.first_row) for part in parts] == [(0, 1, 0), (1, 2, 7), (2, 3, 14)]


@pytest.mark.parametrize("name", ["rows.parquet", "file.arrow"])
def test_one_bad_text_of_a_table_spoils_its_own_row_only(tmp_path: Path, name: str):
    texts = pa.array([b"good", b"bad \xff", b"fine"], pa.binary()).view(pa.string())
    table = pa.table({"prompt": texts})
    if name == "rows.parquet":
        pq.write_table(table, tmp_path / name)
    else:
        with pa.ipc.new_file(tmp_path / name, table.schema) as writer:
            writer.write_table(table)
    good, bad, fine = read(tmp_path / name)
    assert (good.values(), fine.values()) == ({"prompt": "good"}, {"prompt": "fine"})
    with pytest.raises(Dropped, match="unreadable: byte 4 of a text is not UTF-8"):
        bad.values()
    assert bad.as_text() == "bad \\xff"


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


def test_equal_values_have_one_fingerprint_and_others_another():
    same = [b'{"a": 1, "b": "\\u00e9"}', ' {"b":"é","a":1} '.encode(), {"b": "é", "a": 1}]
    assert len({RawRow(Origin(0, 0), content).as_bytes() for content in same}) == 1
    broken = [b'{"a": 1', b'{"a": 2', b'{"a": "\xff"}', b'{"a": "\\udc80"}']
    assert len({RawRow(Origin(0, 0), content).as_bytes() for content in [*broken, same[0]]}) == 5


def test_globs_and_lists_name_each_file_once_in_a_known_order(tmp_path: Path):
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        (tmp_path / name).touch()
    found = find_files([f"{tmp_path}/c.txt", f"{tmp_path}/*.jsonl", f"{tmp_path}/a.jsonl"])
    assert [Path(path).name for path in found] == ["c.txt", "a.jsonl", "b.jsonl"]
    inputs = find_inputs(SourceConfig(path=[f"{tmp_path}/c.txt", f"{tmp_path}/*", f"{tmp_path}/a.jsonl"]))
    assert [Path(each.path).name for each in inputs] == ["c.txt", "a.jsonl", "b.jsonl"]


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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.bz2", b"BZh91AY", "compressed by bzip2; give it as .gz or .zst"),
        ("rows.zip", b"PK\x03\x04", "zip archive; unpack it"),
        ("rows.csv", "a,b".encode("utf-16"), "is UTF-16; give it as UTF-8"),
        ("rows.parquet", b"", "damaged Parquet file"),
        ("rows.parquet.gz", gzip.compress(b"PAR1...", mtime=0), "is a compressed Parquet file; unpack it"),
    ],
)
def test_a_file_that_is_not_read_is_refused_by_kind(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused, match=f"{name}.*{message}"):
        find_inputs(SourceConfig(path=str(tmp_path / name)))


@pytest.mark.parametrize("setting", ["split", "name", "revision"])
def test_a_setting_of_datasets_is_refused_for_files(tmp_path: Path, setting: str):
    (tmp_path / "rows.jsonl").touch()
    with pytest.raises(Refused, match=f"--source.{setting}=train is for a hub dataset.*not every path is one"):
        find_inputs(SourceConfig(path=str(tmp_path / "rows.jsonl"), **{setting: "train"}))


CUT = {
    "rows.jsonl.gz": "the file is damaged",
    "rows.jsonl.zst": "the file is damaged",
    "array.json": "it ends before the array does",
    "array.json.gz": "the file is damaged",
    "array.json.zst": "the file is damaged",
    "rows.csv.gz": "the file is damaged",
    "stream.arrow": "the file is damaged",
}


@pytest.mark.parametrize("name", CUT)
def test_a_file_cut_short_is_refused_with_its_last_row(tmp_path: Path, name: str):
    rows = [{"n": str(n), "text": (n * 7919).to_bytes(4, "big").hex() * 9} for n in range(20_000)]
    content = KINDS[name](rows)
    (tmp_path / name).write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(Refused, match=rf"{name}, after row [1-9]\d+: {CUT[name]}"):
        read(tmp_path / name)


@pytest.mark.parametrize(("name", "kind"), [("rows.parquet", "Parquet"), ("file.arrow", "Arrow")])
def test_a_table_cut_short_is_refused(tmp_path: Path, name: str, kind: str):
    (tmp_path / name).write_bytes(KINDS[name]([{"prompt": "x"}] * 1000)[:-20])
    with pytest.raises(Refused, match=rf"{name}: damaged {kind} file"):
        read(tmp_path / name)


def test_a_damaged_page_of_a_parquet_file_is_refused_with_the_row_before_it(tmp_path: Path):
    content = bytearray(KINDS["rows.parquet"]([{"prompt": f"{n} text"} for n in range(1000)]))
    middle = len(content) // 2
    content[middle - 300 : middle] = bytes(300)
    (tmp_path / "rows.parquet").write_bytes(content)
    with pytest.raises(Refused, match=r"rows\.parquet, after row [1-9]\d+: the file is damaged"):
        read(tmp_path / "rows.parquet")


@pytest.mark.parametrize("name", ["file.arrow", "stream.arrow"])
def test_a_text_that_lies_outside_of_an_arrow_file_is_refused(tmp_path: Path, name: str):
    content = KINDS[name]([{"a": "x"}] * 7)
    offsets, moved = (struct.pack("<8i", *numbers) for numbers in (range(8), (0, 1, 2, 3, 1 << 30, 5, 6, 7)))
    assert content.count(offsets) == 1
    (tmp_path / name).write_bytes(content.replace(offsets, moved))
    with pytest.raises(Refused, match=rf"{name}, before the first row: the file is damaged"):
        read(tmp_path / name)


def test_a_file_of_lines_may_begin_with_a_row_that_is_a_list(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_bytes(b'[1, 2]\n{"a": 3}\n')
    assert [row.values() for row in read(tmp_path / "rows.jsonl")] == [[1, 2], {"a": 3}]


def test_a_quote_that_is_never_closed_is_refused_with_the_row_before_it(tmp_path: Path):
    (tmp_path / "rows.csv").write_bytes(b'a,b\n1,2\n3,4\n5,"6\n7,8\n')
    with pytest.raises(Refused, match=r"rows\.csv, after row 1: a quoted field has no end"):
        read(tmp_path / "rows.csv")


def test_a_header_that_names_a_field_twice_is_refused(tmp_path: Path):
    (tmp_path / "rows.csv").write_bytes(b"a,b,a\n1,2,3\n")
    with pytest.raises(Refused, match=r"the header has 'a' more than once"):
        read(tmp_path / "rows.csv")


def test_the_first_rows_are_had_without_reading_the_file(tmp_path: Path):
    content = as_lines([{"n": n} for n in range(100_000)])
    for name, kind in (("rows.jsonl", bytes), ("rows.jsonl.gz", gzip.compress)):
        (tmp_path / name).write_bytes(kind(content)[:-1000])  # that the second is cut short shows at its end only
        rows = read_in_order(find_inputs(SourceConfig(path=str(tmp_path / name))))
        assert [next(rows).values()["n"] for _ in range(64)] == list(range(64))


def test_an_input_is_described_by_size_and_digest(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    (described,) = find_inputs(SourceConfig(path=str(tmp_path / "a")))
    assert (described.bytes, described.text_bytes) == (3, 3)
    assert described.digest.startswith("sha256:ba7816bf")
