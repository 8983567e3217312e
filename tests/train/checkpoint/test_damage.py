"""What is wrong with a checkpoint is one short line."""

from oddsmill.train.checkpoint.damage import first_line, set_aside


def test_the_root_of_an_error_is_told_in_a_short_line():
    error = RuntimeError("all of it")
    error.__cause__ = ValueError("crc32c does not match\nmore")
    assert first_line(error) == "crc32c does not match"
    assert first_line(KeyError()) == "KeyError"
    assert len(first_line(ValueError("x" * 1000))) < 210


def test_a_damaged_one_is_renamed_in_place_of_an_earlier_one(tmp_path):
    for name in ("4", "4.damaged", "2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    set_aside(tmp_path, {4: "cut off"}, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4.damaged"]
    assert (tmp_path / "4.damaged" / "file").read_text() == "4"
