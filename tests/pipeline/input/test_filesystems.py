"""Reading files that lie elsewhere: Beam's local files under another scheme stand for a store."""

import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.localfilesystem import LocalFileSystem

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.input import filesystems
from oddsmill.pipeline.input.sources import count_part, divide, find_inputs, number_parts, read_batches
from oddsmill.schemas.errors import Refused
from tests.pipeline.input.test_sources import KINDS


class Store(LocalFileSystem):
    """store://a/b is the file /a/b."""

    @classmethod
    def scheme(cls) -> str:
        return "store"

    def open(self, path: str, *arguments: Any, **options: Any) -> Any:
        return super().open(path.removeprefix("store:/"), *arguments, **options)

    def exists(self, path: str) -> bool:
        return os.path.exists(path.removeprefix("store:/"))

    def size(self, path: str) -> int:
        return os.path.getsize(path.removeprefix("store:/"))

    def checksum(self, path: str) -> str:
        return f"crc-{self.size(path)}"

    def join(self, base: str, *paths: str) -> str:
        return "/".join([base.rstrip("/"), *paths])

    def split(self, path: str) -> tuple[str, str]:
        head, _, tail = path.rpartition("/")
        return head, tail

    def _list(self, folder: str) -> Any:
        for metadata in super()._list(folder.removeprefix("store:/")):
            yield FileMetadata(f"store:/{metadata.path}", metadata.size_in_bytes)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_is_read_from_a_store(tmp_path: Path, name: str):
    rows = [{"prompt": f"p{n}", "chosen": f"c{n}"} for n in range(40)]
    (tmp_path / name).write_bytes(KINDS[name](rows))
    (source,) = find_inputs(SourceConfig(path=f"store:/{tmp_path}/*"))
    assert (source.path, source.digest) == (f"store:/{tmp_path}/{name}", f"checksum:crc-{source.bytes}")
    parts = number_parts(source, map(count_part, divide(0, source, part_bytes=300)))
    found = [row for part in parts for batch in read_batches(part) for row in batch]
    assert [(row.origin.row, row.values()) for row in found] == list(enumerate(rows))


def test_the_file_of_a_store_is_asked_for_large_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": 1}\n' * 10_000)
    asked: list[int] = []

    class Remote(io.FileIO):
        def read(self, size: int = -1, /) -> bytes:
            asked.append(size)
            return super().read(size)

        def readinto(self, buffer: Any) -> int:
            asked.append(len(buffer))
            return super().readinto(buffer)

    monkeypatch.setattr(Store, "open", lambda self, path, **options: Remote(path.removeprefix("store:/")))
    with filesystems.open_file(f"store:/{tmp_path}/rows.jsonl") as file:
        assert len(file.readlines()) == 10_000
    assert len(asked) < 5


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("s3://bucket/rows.jsonl", r"s3://bucket/rows\.jsonl: the library .* pip install 'apache-beam\[aws\]'"),
        ("gs://bucket/rows.jsonl", r"gs://bucket/rows\.jsonl: the library .* pip install 'oddsmill\[dataflow\]'"),
        (
            "ftp://host/rows.jsonl",
            r"ftp://host/rows\.jsonl: no such file system; known are local paths, hf://, gs://, s3://",
        ),
        ("store://nowhere/rows.jsonl", r"--source\.path=store://nowhere/rows\.jsonl: no such file"),
        ("store://nowhere/*.jsonl", r"--source\.path=store://nowhere/\*\.jsonl: no file matches"),
    ],
)
def test_a_remote_path_that_cannot_be_read_is_refused(path: str, message: str, monkeypatch: pytest.MonkeyPatch):
    for module in ("boto3", "google.cloud.storage"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(Refused, match=message):
        find_inputs(SourceConfig(path=path))


def test_a_file_that_may_not_be_read_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "rows.jsonl").touch()

    def deny(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", deny)
    with pytest.raises(Refused, match=r"rows\.jsonl: cannot be read \(Permission denied\)"):
        filesystems.digest_of(str(tmp_path / "rows.jsonl"))
