"""Which changes of a file are changes of the input."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from oddsmill.pipeline.input import changes
from oddsmill.pipeline.input.changes import change_of, check_unchanged, state_of, while_unchanged
from oddsmill.schemas.errors import Refused, RunFailed

CONTENT = b'{"a": 1}\n{"a": 2}\n'


def _cut(path: Path) -> None:
    os.truncate(path, 9)


def _append(path: Path) -> None:
    path.write_bytes(CONTENT * 2)


def _other_of_the_same_size_and_time(path: Path) -> None:
    before = path.stat()
    path.write_bytes(CONTENT.replace(b"1", b"3"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _another_in_its_place(path: Path) -> None:
    before = path.stat()
    new = path.with_name("new")
    new.write_bytes(CONTENT.replace(b"1", b"3"))
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.rename(path)


def _rewritten_as_it_was(path: Path) -> None:
    path.write_bytes(b"")
    path.write_bytes(CONTENT)


def _a_copy_in_its_place(path: Path) -> None:
    before = path.stat()
    new = path.with_name("new")
    new.write_bytes(CONTENT)
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.rename(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(CONTENT)
    os.utime(path, ns=(10**18, 10**18))
    return path


@pytest.mark.parametrize(
    ("act", "change"),
    [
        (_cut, "it was 18 bytes, it is 9 bytes"),
        (_append, "it was 18 bytes, it is 36 bytes"),
        (_other_of_the_same_size_and_time, "its content is another one"),
        (_another_in_its_place, "its content is another one"),
        (Path.unlink, "it is gone"),
        (lambda path: (path.unlink(), path.symlink_to(path)), "it cannot be read any more (Too many levels of"),
    ],
)
def test_a_file_that_is_written_replaced_or_removed_has_changed(path: Path, act: Callable[[Path], object], change: str):
    state = state_of(str(path))
    act(path)
    told = change_of(str(path), state)
    assert told is not None
    assert told.startswith(change)
    with pytest.raises(
        RunFailed, match=r"rows\.jsonl changed while it was read: .*run again when nobody writes the input"
    ):
        check_unchanged({str(path): state})


@pytest.mark.parametrize(
    "act",
    [
        Path.read_bytes,
        Path.touch,
        lambda path: path.chmod(0o600),
        lambda path: os.link(path, f"{path}.link"),
        _a_copy_in_its_place,
        _rewritten_as_it_was,
    ],
)
def test_a_file_that_is_read_touched_copied_linked_or_given_other_rights_has_not(
    path: Path, act: Callable[[Path], object]
):
    state = state_of(str(path))
    act(path)
    assert change_of(str(path), state) is None
    check_unchanged({str(path): state})


def test_a_touched_file_is_read_anew_once_however_many_parts_ask(path: Path, monkeypatch: pytest.MonkeyPatch):
    states, digests = {str(path): state_of(str(path))}, []
    monkeypatch.setattr(changes, "digest_of", lambda path: (digests.append(path), states[path].digest)[1])
    path.touch()
    for _ in range(5):
        with while_unchanged(str(path), states) as was_touched:
            assert not was_touched()
    assert len(digests) == 1
    with while_unchanged(str(path), states) as was_touched:
        _rewritten_as_it_was(path)
        assert was_touched()


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    store = fsspec.filesystem("memory")
    store.pipe_file("memory://rows.jsonl", CONTENT)
    yield store
    store.store.clear()
    store.pseudo_dirs[:] = [""]


def test_an_object_of_a_store_that_is_written_anew_has_changed(memory: fsspec.AbstractFileSystem):
    state = state_of("memory://rows.jsonl")
    assert change_of("memory://rows.jsonl", state) is None
    memory.pipe_file("memory://rows.jsonl", CONTENT)
    assert (change_of("memory://rows.jsonl", state) or "").startswith("it was 18 bytes of created 20")
    memory.rm_file("memory://rows.jsonl")
    assert change_of("memory://rows.jsonl", state) == "it is gone"


@pytest.mark.parametrize("fields", [{"crc32c": "A"}, {"ETag": "A"}, {"generation": "A"}, {"updated": "A"}])
def test_an_object_is_told_by_what_its_store_says_of_its_content(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch, fields: dict[str, str]
):
    about = {"type": "file", "size": 18}
    monkeypatch.setattr(type(memory), "info", lambda *_, **__: about | fields)
    state = state_of("memory://rows.jsonl")
    assert change_of("memory://rows.jsonl", state) is None
    fields = dict.fromkeys(fields, "B")
    name = next(iter(fields))
    assert change_of("memory://rows.jsonl", state) == f"it was 18 bytes of {name} A, it is 18 bytes of {name} B"


def test_the_reading_of_a_changed_file_fails_by_the_change_and_not_by_its_damage(path: Path):
    states = {str(path): state_of(str(path))}
    with pytest.raises(Refused, match="damaged"), while_unchanged(str(path), states):
        raise Refused("the file is damaged")
    with pytest.raises(RunFailed, match="9 bytes"), while_unchanged(str(path), states):  # noqa: PT012
        _cut(path)
        raise Refused("the file is damaged")
    with pytest.raises(RunFailed, match="9 bytes"), while_unchanged(str(path), states):
        raise AssertionError("it was opened")
    with while_unchanged("of another list", states):
        pass
