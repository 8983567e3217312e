"""Files in stores: fsspec's memory for what is the same in all, a fake of Google's store for what its client does."""

import contextlib
import gzip
import io
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest

from oddsmill.schemas import stores
from oddsmill.schemas.errors import Refused
from tests.cloud_storage import FakeStorage
from tests.disk_store import DiskStore


@pytest.fixture
def memory() -> Iterator[dict[str, bytes]]:
    """Puts objects into memory:// and takes them away again: `memory["folder/name"] = content`."""
    store = fsspec.filesystem("memory")

    class Objects(dict[str, bytes]):
        def __setitem__(self, name: str, content: bytes) -> None:
            store.pipe_file(f"memory://{name}", content)

        def __getitem__(self, name: str) -> bytes:
            return store.cat_file(f"memory://{name}")

    yield Objects()
    store.store.clear()
    store.pseudo_dirs[:] = [""]


def test_a_file_of_a_store_is_read_and_described(memory: dict[str, bytes]):
    memory["folder/rows.jsonl"] = b"one\ntwo\n"
    path = "memory://folder/rows.jsonl"
    with stores.open_file(path) as file:
        assert file.readlines() == [b"one\n", b"two\n"]
        assert (file.seek(4), file.read(2)) == (4, b"tw")
    assert stores.size_of(path) == 8
    assert stores.is_file(path)
    assert not stores.is_file("memory://folder")
    assert not stores.is_file("memory://folder/other")


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_a_digest_changes_with_the_content_and_only_with_it(scheme: str, tmp_path: Path, memory: dict[str, bytes]):
    path = f"{scheme}{tmp_path}/rows.jsonl"
    seen = []
    for content in (b"abc", b"abd", b"abc"):
        if scheme:
            memory[f"{tmp_path}/rows.jsonl"] = content
        else:
            Path(path).write_bytes(content)
        seen.append(stores.digest_of(path))
    assert seen[0] == seen[2] != seen[1]
    assert seen[0].startswith("sha256:ba7816bf")


def test_a_glob_names_files_alone_in_alphabetical_order(tmp_path: Path, memory: dict[str, bytes]):
    for name in ("b.jsonl", "a.jsonl", "c.txt", "d.jsonl/inner.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        memory[f"{tmp_path}/{name}"] = b""
    for place in (f"{tmp_path}", f"memory:/{tmp_path}"):
        assert stores.find_matches(f"{place}/*.jsonl") == [f"{place}/a.jsonl", f"{place}/b.jsonl"]
        assert stores.find_matches(f"{place}/*.csv") == []


def test_the_files_under_a_folder_are_those_of_that_folder_alone(tmp_path: Path, memory: dict[str, bytes]):
    for name in ("out/b/c", "out/a", "output/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
        memory[f"{tmp_path}/{name}"] = b""
    for place in (f"{tmp_path}", f"memory:/{tmp_path}"):
        assert stores.files_under(f"{place}/out") == stores.files_under(f"{place}/out/") == ["a", "b/c"]
        assert stores.files_under(f"{place}/nowhere") == stores.files_under(f"{place}/out/a") == []


def test_what_is_uploaded_is_fetched_and_removed(tmp_path: Path, memory: dict[str, bytes]):
    (tmp_path / "local").write_bytes(b"content")
    for name in ("one", "deep/two"):
        stores.upload(str(tmp_path / "local"), f"memory://out/{name}")
    copy = Path(stores.fetch_folder("memory://out/"))
    assert [(copy / name).read_bytes() for name in ("one", "deep/two")] == [b"content", b"content"]
    with stores.local_file("memory://out/one") as local:
        assert (Path(local).name, Path(local).read_bytes()) == ("one", b"content")
    assert not Path(local).exists()
    stores.remove(["memory://out/one"])
    assert stores.files_under("memory://out") == ["deep/two"]


@pytest.mark.parametrize("name", ["../../evil", "a/../../evil", "/evil", "a//evil", "a/./evil"])
def test_no_name_in_a_store_leads_out_of_the_copy(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setattr(stores, "files_under", lambda folder: [name])
    monkeypatch.setattr(stores, "_download", lambda path, target: pytest.fail(target))
    with pytest.raises(Refused, match="is no path inside a folder"):
        stores.fetch_folder("memory://out")


def test_files_of_this_machine_are_used_where_they_lie(tmp_path: Path):
    (tmp_path / "one").touch()
    assert stores.fetch_folder(str(tmp_path)) == str(tmp_path)
    with stores.local_file(str(tmp_path / "one")) as local:
        assert local == str(tmp_path / "one")


def test_a_copy_for_which_there_is_no_space_is_refused_by_its_name(memory: dict[str, bytes], tmp_path: Path):
    memory["out/one"] = b"content"
    with pytest.raises(Refused, match=r"nowhere/one, a copy of memory://out/one: cannot be written \(No such file"):
        stores._download("memory://out/one", str(tmp_path / "nowhere/one"))


def test_the_file_of_a_store_is_asked_for_large_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": 1}\n' * 10_000)
    asked: list[int] = []

    class Remote(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            asked.append(size or -1)
            return super().read(size)

        def readinto(self, buffer: Any, /) -> int:
            asked.append(len(buffer))
            return super().readinto(buffer)

    monkeypatch.setattr(DiskStore, "open", lambda self, path, *_, **__: Remote(self._strip_protocol(path)))
    with stores.open_file(f"store:/{tmp_path}/rows.jsonl") as file:
        assert len(file.readlines()) == 10_000
    assert len(asked) < 5


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gs://bucket/x", r"gs://bucket/x: the library for gs:// is not installed: pip install 'oddsmill\[dataflow\]'"),
        ("s3://bucket/x", r"s3://bucket/x: the library for s3:// is not installed: pip install 'oddsmill\[s3\]'"),
        ("abfs://box/x", r"abfs://box/x: the library for abfs:// is not installed: .*adlfs"),
        ("nfs4://host/x", r"nfs4://host/x: no such file system; known are local paths, gs://, s3://, hf://"),
        ("file:///tmp/x", r"file:///tmp/x: write a file of this machine without file://"),
    ],
)
def test_a_place_that_cannot_be_reached_is_refused(path: str, message: str, monkeypatch: pytest.MonkeyPatch):
    for module in ("s3fs", "gcsfs", "gcsfs.core", "adlfs"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    stores._google_storage.cache_clear()
    for ask in (stores.is_file, stores.size_of, stores.digest_of, stores.find_matches, stores.files_under):
        with pytest.raises(Refused, match=message):
            ask(path)
    with pytest.raises(Refused, match=message):
        stores.upload(__file__, path)


def test_a_hub_dataset_is_not_written_file_by_file():
    with pytest.raises(Refused, match=r"hf://org/name/x: cannot be written \(each file would be a commit\)"):
        stores.upload(__file__, "hf://org/name/x")


def test_a_file_that_may_not_be_read_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "rows.jsonl").touch()

    def deny(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", deny)
    with pytest.raises(Refused, match=r"rows\.jsonl: cannot be read \(Permission denied\)"):
        stores.digest_of(str(tmp_path / "rows.jsonl"))


def test_whatever_the_client_of_a_store_raises_is_one_refusal(
    memory: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
):
    class ClientError(Exception):
        pass

    def fail(*_: Any, **__: Any) -> Any:
        raise ClientError("403:\n no\n")

    for name in ("open", "info", "glob", "find", "put_file", "rm_file"):
        monkeypatch.setattr(type(fsspec.filesystem("memory")), name, fail)
    for use, what in (
        (lambda path: stores.open_file(path).__enter__(), "read"),
        (stores.size_of, "read"),
        (stores.find_matches, "read"),
        (stores.files_under, "read"),
        (lambda path: stores.upload(__file__, path), "written"),
        (lambda path: stores.remove([path]), "written"),
    ):
        with pytest.raises(Refused, match=rf"^memory://x: cannot be {what} \(403: no\)$"):
            use("memory://x")


def test_local_files_need_neither_fsspec_nor_a_client_of_a_store(tmp_path: Path):
    code = (
        "import sys; from oddsmill.schemas import stores; p = sys.argv[1]; stores.digest_of(p); stores.is_file(p);"
        "stores.find_matches(p); print([m for m in ('fsspec', 'gcsfs', 's3fs', 'apache_beam') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code, __file__], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStorage]:
    fake = FakeStorage()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake.address)
    yield fake
    fake.close()


# The client of gs:// is in [dataflow], eighty packages that the first minute of a newcomer shall not wait for.
@pytest.mark.slow
def test_googles_store_reads_lists_writes_and_removes(google: FakeStorage, tmp_path: Path):
    large = os.urandom(20 << 20)  # more than one piece, both ways
    (tmp_path / "large").write_bytes(large)
    stores.upload(str(tmp_path / "large"), "gs://bucket/out/large")
    stores.upload(__file__, "gs://bucket/out/deep/small")
    assert google.objects["bucket/out/large"] == large
    with stores.open_file("gs://bucket/out/large") as file:
        assert file.read() == large
    assert stores.size_of("gs://bucket/out/large") == len(large)
    assert stores.digest_of("gs://bucket/out/large") == f"checksum:{google.describe('bucket/out/large')['crc32c']}"
    assert stores.find_matches("gs://bucket/out/*") == ["gs://bucket/out/large"]
    assert stores.files_under("gs://bucket/out") == ["deep/small", "large"]
    google.objects["bucket/out/of another process"] = b""  # nothing is remembered of a listing
    assert stores.files_under("gs://bucket/out") == ["deep/small", "large", "of another process"]
    assert stores.find_matches("gs://bucket/out/*") == ["gs://bucket/out/large", "gs://bucket/out/of another process"]
    del google.objects["bucket/out/of another process"]
    assert not stores.is_file("gs://bucket/out/of another process")
    stores.remove(["gs://bucket/out/large"])
    assert not stores.is_file("gs://bucket/out/large")
    assert stores.files_under("gs://bucket/nowhere") == []
    google.objects["bucket/rows.gz"] = gzip.compress(b"text")
    with stores.open_file("gs://bucket/rows.gz") as file, gzip.open(file) as stream:
        assert stream.read() == b"text"


@pytest.mark.slow
@pytest.mark.parametrize(("code", "reason"), [(403, "does not have storage.objects.get access"), (401, "Anonymous")])
def test_a_bucket_that_is_closed_is_one_refusal_at_once(
    google: FakeStorage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, reason: str, capfd: Any
):
    google.refusal = (code, reason)
    # As in a program that has set up no logging, where Python prints what it is told to log.
    monkeypatch.setattr(logging.getLogger("gcsfs"), "propagate", False)
    started = time.monotonic()
    uses: list[Callable[[str], object]] = [stores.size_of, stores.is_file, stores.find_matches, stores.files_under]
    for use in [*uses, lambda path: stores.upload(__file__, path), lambda path: stores.remove([path])]:
        with pytest.raises(Refused, match=rf"^gs://bucket/x: cannot be (read|written) \(.*{reason}"):
            use("gs://bucket/x")
    with pytest.raises(Refused, match=reason), contextlib.ExitStack() as stack:
        stack.enter_context(stores.open_file("gs://bucket/x"))
    assert time.monotonic() - started < 60  # its client would try for minutes
    assert capfd.readouterr().err == ""
    assert google.objects == {}


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [lambda file: file, gzip.open, pa.PythonFile])
def test_an_access_that_ends_in_the_middle_of_a_file_is_one_refusal(google: FakeStorage, wrap: Callable[[Any], Any]):
    google.objects["bucket/x"] = gzip.compress(os.urandom(40 << 20), 0)
    with stores.open_file("gs://bucket/x") as file:
        reader = wrap(file)
        reader.read(1 << 20)
        google.refusal = (403, "no longer")
        with pytest.raises(Refused, match=r"^gs://bucket/x: cannot be read \(.*no longer"):
            list(iter(lambda: reader.read(1 << 20), b""))


@pytest.mark.slow
def test_s3_without_credentials_or_network_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(Refused, match=r"s3://bucket/x: cannot be read \(Unable to locate credentials\)"):
        stores.size_of("s3://bucket/x")
