"""Telling the kind of a file."""

import gzip
from pathlib import Path

import pytest

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.input.kinds.recognition import recognize
from oddsmill.pipeline.input.sources import find_inputs
from oddsmill.schemas.errors import Refused
from tests.pipeline.input.files import zstd


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


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("rows", b'{"a": 1}', "JSON lines"),
        ("rows", b"", "JSON lines"),
        ("rows", b"\xef\xbb\xbf \n[1]", "JSON array"),
        ("rows.json", b"[1]", "JSON array"),
        ("rows.JSONL", b"[1]", "JSON lines"),
        ("rows.ndjson.gz", gzip.compress(b"[1]", mtime=0), "JSON lines"),
        ("rows.json.zst", zstd(b"[1]"), "JSON array"),
        ("rows.csv.gz", gzip.compress(b"[1]", mtime=0), "CSV"),
        ("rows.TSV", b"[1]", "TSV"),
        ("rows.csv", b"PAR1", "Parquet"),
        ("rows.jsonl", b"ARROW1", "Arrow"),
        ("rows.arrow", b"\xff\xff\xff\xff", "Arrow"),
    ],
)
def test_magic_bytes_come_before_names_and_names_before_what_a_text_begins_with(
    tmp_path: Path, name: str, content: bytes, kind: str
):
    (tmp_path / name).write_bytes(content)
    assert recognize(str(tmp_path / name)).kind.name == kind
