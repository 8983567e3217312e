"""Telling the kind of a file."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.input.kinds.recognition import recognize
from oddsmill.pipeline.input.sources import find_inputs
from oddsmill.schemas.errors import Refused
from tests.pipeline.input.files import zstd


def tar() -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as file:
        file.addfile(tarfile.TarInfo("rows.jsonl"), io.BytesIO())
    return archive.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12345\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.zip", b"PK\x03\x04", "zip archive; unpack it"),
        ("rows.csv", "a,b".encode("utf-16"), "is UTF-16 or UTF-32; give it as UTF-8"),
        ("rows.tar.gz", gzip.compress(tar(), mtime=0), ", decompressed, is a tar archive; unpack it"),
        (
            "rows.jsonl.gz",
            gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0),
            "decompressed, is compressed once more; decompress it",
        ),
        ("rows.zst", b"\x28\xb5\x2f\xfd\x01\x00\x00", "compressed by zstd with a dictionary, which it does not hold"),
        ("rows.jsonl", b"\x00" * 99, "is no text"),
        (
            "rows.json",
            b'{"prompt": ["p", "q"], "chosen": ["a", "b"], "rejected": ["c", "d"]}',
            "holds columns, not rows",
        ),
        ("rows.json", b'{"prompt":{"0":"p"},"chosen":{"0":"a"},"rejected":{"0":"c"}}', "orient='records', lines=True"),
        ("rows.parquet", LFS, "is a git-lfs pointer.*git lfs pull"),
        ("rows.parquet", b"", "damaged Parquet file"),
        ("rows.parquet.gz", gzip.compress(b"PAR1\x15\x04", mtime=0), "is a compressed Parquet file; unpack it"),
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
        ("rows.jsonl", b'[{"a": 1}]', "JSON array"),
        ("rows.csv", b'{"a": 1}\n{"a": 2}', "JSON lines"),
        ("rows.parquet", b'[{"a": 1}]', "JSON array"),
        ("rows.csv", b"{a},b\n1,2", "CSV"),
        ("rows.csv.gz", b"a,b\n1,2", "CSV"),
        ("rows.jsonl", b'"prompt","chosen","rejected"\r\np,c,r', "CSV"),
        ("rows.txt", b"question\tchosen\trejected\np\tc\tr", "TSV"),
        ("rows.txt", b"Dear reader, this was chosen.", "JSON lines"),
        ("rows.jsonl", b'{"a": 1}\r{"a": 2}\r', "JSON objects"),
        ("rows.jsonl", b'{"a": 1}\r\n{"a": 2}\r\n', "JSON lines"),
        ("rows.jsonl", b'\x00"a": 1}\n{"a": 2}', "JSON lines"),
        ("rows.csv", b"ARROW1,b\n1,2", "CSV"),
        ("rows.ndjson.gz", gzip.compress(b"[1]", mtime=0), "JSON lines"),
        ("rows.json.zst", zstd(b"[1]"), "JSON array"),
        ("rows.csv.gz", gzip.compress(b"[1]", mtime=0), "CSV"),
        ("rows.TSV", b"[1]", "TSV"),
        ("rows.csv", b"PAR1", "Parquet"),
        ("rows.jsonl", b"ARROW1", "Arrow"),
        ("rows.arrow", b"\xff\xff\xff\xff", "Arrow"),
    ],
)
def test_what_a_file_holds_comes_before_its_name(tmp_path: Path, name: str, content: bytes, kind: str):
    (tmp_path / name).write_bytes(content)
    assert recognize(str(tmp_path / name)).kind.name == kind
