"""Files and folders appear whole or not at all."""

import os

import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.files import (
    check_name,
    check_own,
    check_place,
    check_writable,
    publish_file,
    publish_folder,
    publish_text,
)
from oddsmill.schemas.process import signals


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    with publish_file(path) as file:
        file.write("é")
        assert not path.exists()
    assert path.read_bytes() == "é".encode()
    publish_text(path, "new")
    with publish_file(path, "wb") as file:
        file.write(b"\x00")
        file.flush()
        assert path.read_text() == "new"
    assert path.read_bytes() == b"\x00"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_finished_leaves_the_former_one_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="no room"), publish_file(path) as file:  # noqa: PT012
        file.write("half")
        raise OSError("no room")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_the_former_one_when_it_is_whole(tmp_path):
    folder = tmp_path / "a" / "out"
    for name in ("first", "second"):
        with publish_folder(folder) as unfinished:
            (unfinished / name).write_text(name)
            assert not (folder / name).exists()
        assert [path.name for path in folder.iterdir()] == [name]
    with pytest.raises(ValueError, match="half"), publish_folder(folder) as unfinished:  # noqa: PT012
        (unfinished / "third").write_text("x")
        raise ValueError("half")
    assert [path.name for path in folder.iterdir()] == ["second"]
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("rows\nok  all.jsonl", r"rows\nok  all.jsonl: the name holds a control character; rename it"),
        ("\x1b[2J", r"\x1b[2J: the name holds a control character"),
        ("a\u2028b", r"a\u2028b: the name holds a control character"),
        (os.fsdecode(b"r\xe9sum\xe9.jsonl"), r"r\udce9sum\udce9.jsonl: the name is not UTF-8; rename it"),
    ],
)
def test_a_name_that_no_line_or_file_can_hold_is_refused(name, problem):
    with pytest.raises(Refused) as refused:
        check_name(name, "source.path")
    assert str(refused.value).startswith(f"--source.path={problem}")


def test_names_of_every_language_and_of_stores_are_taken(tmp_path):
    for name in ("résumé 漢 עברית (1).jsonl", "gs://bucket/" + "x" * 900, "a" * 244):
        check_name(name, "output")
        check_place(name if "://" in name else str(tmp_path / name), "output")


@pytest.mark.parametrize(
    ("name", "below", "problem"),
    [
        ("a" * 245, 0, "is too long: a name may have 244 bytes here, and one has 245"),
        ("é" * 123, 0, "is too long: a name may have 244 bytes here, and one has 246"),
        ("a" * 300 + "/b", 0, "is too long: a name may have 244 bytes here, and one has 300"),
        ("/".join(["a" * 200] * 19), 300, "is too long: a path may have 3794 bytes here"),
    ],
)
def test_a_place_is_too_long_before_the_work_and_not_after_it(tmp_path, name, below, problem):
    with pytest.raises(Refused) as refused:
        check_place(str(tmp_path / name), "output", below=below)
    assert problem in str(refused.value)


def test_the_longest_place_that_is_taken_can_be_written(tmp_path):
    place = tmp_path / ("a" * 244)
    check_place(str(place), "out")
    publish_text(place, "x")
    with publish_folder(tmp_path / ("b" * 244)) as folder:
        (folder / "x").touch()
    assert place.read_text() == "x"


def test_a_link_that_leads_out_of_a_folder_is_no_file_of_it(tmp_path):
    cache = tmp_path / "models--org--name"
    folder, model = cache / "snapshots" / "abc", tmp_path / "model"
    for place in (folder, cache / "blobs", model, tmp_path / "blobs"):
        place.mkdir(parents=True)
    for file in (cache / "blobs" / "123", model / "a.txt", tmp_path / "secret"):
        file.write_text("x")
    (folder / "a.txt").symlink_to("../../blobs/123")  # as the hub's client makes it
    (model / "b.txt").symlink_to("a.txt")
    for home, name in ((folder, "a.txt"), (model, "a.txt"), (model, "b.txt"), (model, "none.txt")):
        check_own(home / name, home)
    (model / "c.txt").symlink_to(tmp_path / "secret")
    (folder / "c.txt").symlink_to("../../../secret")
    (model / "inner").symlink_to(tmp_path)
    for home, name in ((model, "c.txt"), (folder, "c.txt"), (model, "inner/secret"), (model, "../secret")):
        with pytest.raises(Refused, match=r"is a link to .*secret, outside .*; put the file itself there"):
            check_own(home / name, home)


def test_what_is_unfinished_is_removed_when_a_signal_ends_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "_cleanups", [])  # other tests of this process have left folders for its whole life
    (tmp_path / "file").write_text("before")
    with publish_file(tmp_path / "file") as file, publish_folder(tmp_path / "folder") as folder:
        file.write("after")
        (folder / "part").write_text("part")
        for clean_up in reversed(signals._cleanups):
            clean_up()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
        folder.mkdir()
        (tmp_path / "file.unfinished").write_text("")
    assert not signals._cleanups


def test_a_place_that_cannot_be_written_is_refused_before_any_work(tmp_path, monkeypatch):
    check_writable(tmp_path / "new" / "folder", "--out")
    check_writable(tmp_path, "--out")
    (tmp_path / "file").write_text("")
    check_writable(tmp_path / "file", "--out")
    with pytest.raises(Refused, match=r"^--out: cannot write there \(.*/file is a file, and no folder\)$"):
        check_writable(tmp_path / "file" / "folder", "--out")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write wherever a disk lets it
    with pytest.raises(Refused, match=f"{tmp_path} is read-only"):
        check_writable(tmp_path / "new", "--out")
