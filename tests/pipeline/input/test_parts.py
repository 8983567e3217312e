"""Every kind of file gives the same rows with the same numbers, however it is divided and wherever it lies."""

import gzip
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.input.parts import divide, read_in_order
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.pipeline.input.sources import find_inputs
from oddsmill.schemas.drops import Origin
from oddsmill.schemas.errors import Refused
from tests.pipeline.input.files import KINDS, as_lines, read


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
        assert {row.as_bytes() for row in rows} == {RawRow(Origin(0, 0), n).as_bytes() for n in nasty}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_is_read_from_a_store(tmp_path: Path, nasty: list, name: str):
    (tmp_path / name).write_bytes(KINDS[name](nasty))
    (source,) = find_inputs(SourceConfig(path=f"store:/{tmp_path}/*"))
    assert (source.path, source.bytes) == (f"store:/{tmp_path}/{name}", (tmp_path / name).stat().st_size)
    rows = read(f"store:/{tmp_path}/*", part_bytes=300)
    assert [(row.origin.row, row.values()) for row in rows] == list(enumerate(nasty))


def test_every_kind_of_file_makes_the_same_dataset(run: Callable, write_rows: Callable, nasty: list, tmp_path: Path):
    engine = {"tokenizer_engine": "tokenizers"}  # which is worth loading depends on the size of the file
    lines = run("lines", write_rows("rows.jsonl", nasty), **engine).digests
    assert "manifest.json" in lines
    for name in ("array.json.zst", "rows.csv", "rows.parquet", "file.arrow", "stream.arrow"):
        (tmp_path / name).write_bytes(KINDS[name](nasty))
        assert run(f"of-{name}", tmp_path / name, **engine).digests == lines, name


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


def test_the_first_rows_are_had_without_reading_the_file(tmp_path: Path):
    content = as_lines([{"n": n} for n in range(100_000)])
    for name, kind in (("rows.jsonl", bytes), ("rows.jsonl.gz", gzip.compress)):
        (tmp_path / name).write_bytes(kind(content)[:-1000])  # that the second is cut short shows at its end only
        rows = read_in_order(find_inputs(SourceConfig(path=str(tmp_path / name))))
        assert [next(rows).values()["n"] for _ in range(64)] == list(range(64))
