"""Files and folders appear whole or not at all."""

import pytest

from oddsmill.schemas.files import publish_file, publish_folder, publish_text


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
