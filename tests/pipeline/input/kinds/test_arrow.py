"""Arrow files and streams, and what they share with Parquet: division, texts that are not UTF-8, damage."""

import contextlib
import io
import struct
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.input.kinds import arrow
from oddsmill.pipeline.input.kinds.arrow_values import check_memory
from oddsmill.pipeline.input.parts import count_part, divide, number_parts, numbered_parts, read_batches
from oddsmill.pipeline.input.sources import find_inputs
from oddsmill.schemas.drops import Dropped
from oddsmill.schemas.errors import Refused
from tests.pipeline.input.files import KINDS, read


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


@pytest.mark.parametrize(("name", "kind"), [("rows.parquet", "Parquet"), ("file.arrow", "Arrow")])
def test_a_table_cut_short_is_refused(tmp_path: Path, name: str, kind: str):
    (tmp_path / name).write_bytes(KINDS[name]([{"prompt": "x"}] * 1000)[:-20])
    with pytest.raises(Refused, match=rf"{name}: damaged {kind} file"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["file.arrow", "stream.arrow"])
def test_a_text_that_lies_outside_of_an_arrow_file_is_refused(tmp_path: Path, name: str):
    content = KINDS[name]([{"a": "x"}] * 7)
    offsets, moved = (struct.pack("<8i", *numbers) for numbers in (range(8), (0, 1, 2, 3, 1 << 30, 5, 6, 7)))
    assert content.count(offsets) == 1
    (tmp_path / name).write_bytes(content.replace(offsets, moved))
    with pytest.raises(Refused, match=rf"{name}, before the first row: the file is damaged .column 'a': "):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["file.arrow", "stream.arrow"])
def test_a_text_that_is_not_utf8_hides_no_text_outside_of_an_arrow_file(tmp_path: Path, name: str):
    content = KINDS[name]([{"a": "~", "b": "x"}] * 7)
    offsets, moved = (struct.pack("<8i", *numbers) for numbers in (range(8), (0, 1, 2, 3, 1 << 30, 5, 6, 7)))
    first, texts, rest = content.partition(b"~" * 7)
    assert texts and rest.count(offsets) == 1
    (tmp_path / name).write_bytes(first + b"\xff" * 7 + rest.replace(offsets, moved))
    with pytest.raises(Refused, match=rf"{name}, before the first row: the file is damaged"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([{"a": "é"}]),
        pa.array([["é"]], pa.list_(pa.string())),
        pa.array([["é"]], pa.large_list(pa.large_string())),
        pa.array([["é"]], pa.list_(pa.string(), 1)),
        pa.array([["é"]], pa.list_view(pa.string())),
        pa.array([["é"]], pa.large_list_view(pa.string())),
        pa.array([[("é", "é")]], pa.map_(pa.string(), pa.string())),
        pa.array(["é"], pa.string_view()),
        pa.array(["é"]).dictionary_encode(),
        pa.ExtensionArray.from_storage(pa.json_(), pa.array(["é"])),
        pa.array([{"a": [{"b": [1, None]}], "c": None}]),
    ],
    ids=lambda values: str(values.type),
)
def test_a_text_of_every_type_that_is_not_utf8_lies_within_its_file(values: pa.Array):
    batch = pa.record_batch({"a": values})
    with pa.BufferOutputStream() as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    spoilt = sink.getvalue().to_pybytes().replace("é".encode(), b"\xff\xff")
    check_memory(pa.ipc.open_stream(spoilt).read_next_batch())


def test_a_list_of_nulls_alone_is_read(tmp_path: Path):
    rows = [{"a": "é", "scores": [None, None]}]
    (tmp_path / "file.arrow").write_bytes(KINDS["file.arrow"](rows))
    assert [row.values() for row in read(tmp_path / "file.arrow")] == rows


def test_two_columns_of_one_name_are_refused(tmp_path: Path):
    table = pa.table([pa.array(["x"]), pa.array(["y"])], names=["a", "a"])
    with pa.ipc.new_file(tmp_path / "rows.arrow", table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(Refused, match="two of its columns have one name"):
        read(tmp_path / "rows.arrow")


@pytest.mark.parametrize("name", ["rows.parquet", "file.arrow"])
def test_a_column_of_bytes_is_one_of_texts_where_it_holds_texts(tmp_path: Path, name: str):
    table = pa.table({"prompt": pa.array(["é".encode(), b"\xff"]), "image": pa.array([b"\x89PNG", b"\x89PNG"])})
    if name == "rows.parquet":
        pq.write_table(table, tmp_path / name)
    else:
        with pa.ipc.new_file(tmp_path / name, table.schema) as writer:
            writer.write_table(table)
    assert [row.values() for row in read(tmp_path / name)] == [
        {"prompt": "é", "image": b"\x89PNG"},
        {"prompt": b"\xff", "image": b"\x89PNG"},
    ]


@pytest.mark.parametrize("name", ["rows.parquet", "stream.arrow"])
def test_no_thread_of_arrow_touches_a_python_file(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    """One that still holds bytes of it aborts a process that ends meanwhile."""
    seen: list[threading.Thread] = []

    class WatchedBytes(bytes):
        def __del__(self) -> None:
            seen.append(threading.current_thread())

    class WatchedFile(io.BytesIO):
        mode = "rb"

        def read(self, size: int | None = -1) -> bytes:
            seen.append(threading.current_thread())
            return WatchedBytes(super().read(size))

    content = KINDS[name]([dict.fromkeys("abcdef", f"text {n}") for n in range(20)])
    (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(arrow, "open_file", lambda path: contextlib.closing(WatchedFile(content)))
    assert len(read(f"store:/{tmp_path / name}")) == 20
    assert seen and not [thread for thread in seen if isinstance(thread, threading._DummyThread)]  # Python began none


@pytest.mark.parametrize("name", ["rows.parquet", "file.arrow"])
def test_a_file_that_is_cut_while_it_is_read_is_refused(tmp_path: Path, name: str):
    """A process that had mapped the file into memory would be killed."""
    (tmp_path / name).write_bytes(KINDS[name]([{"prompt": f"{n} text " * 99} for n in range(2000)]))
    parts = numbered_parts(find_inputs(SourceConfig(path=str(tmp_path / name))))
    rows = (row for part in parts for batch in read_batches(part) for row in batch)
    next(rows)
    with open(tmp_path / name, "rb+") as file:
        file.truncate(4096)
    with pytest.raises(Refused, match="the file is damaged"):
        list(rows)
