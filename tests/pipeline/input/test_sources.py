"""Finding what the settings name."""

from pathlib import Path

import pytest

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.input.sources import find_files, find_inputs
from oddsmill.schemas.errors import Refused
from tests import disk_store  # noqa: F401 - serves store://


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("store://nowhere/rows.jsonl", r"--source\.path=store://nowhere/rows\.jsonl: no such file"),
        ("store://nowhere/*.jsonl", r"--source\.path=store://nowhere/\*\.jsonl: no file matches"),
    ],
)
def test_a_path_of_a_store_that_names_no_file_is_refused(path: str, message: str):
    with pytest.raises(Refused, match=message):
        find_files([path])


def test_globs_and_lists_name_each_file_once_in_a_known_order(tmp_path: Path):
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        (tmp_path / name).touch()
    found = find_files([f"{tmp_path}/c.txt", f"{tmp_path}/*.jsonl", f"{tmp_path}/a.jsonl"])
    assert [Path(path).name for path in found] == ["c.txt", "a.jsonl", "b.jsonl"]
    inputs = find_inputs(SourceConfig(path=[f"{tmp_path}/c.txt", f"{tmp_path}/*", f"{tmp_path}/a.jsonl"]))
    assert [Path(each.path).name for each in inputs] == ["c.txt", "a.jsonl", "b.jsonl"]


def test_a_file_whose_name_looks_like_a_glob_is_found(tmp_path: Path):
    (tmp_path / "rows[1].jsonl").touch()
    assert find_files([f"{tmp_path}/rows[1].jsonl"]) == [f"{tmp_path}/rows[1].jsonl"]


@pytest.mark.parametrize(
    ("path", "message"),
    [("nowhere.jsonl", "no such file"), ("*.nothing", "no file matches"), (".", "is a folder; give its files")],
)
def test_a_path_that_names_no_file_is_refused(tmp_path: Path, path: str, message: str):
    with pytest.raises(Refused, match=message):
        find_files([f"{tmp_path}/{path}"])


@pytest.mark.parametrize("setting", ["split", "name", "revision"])
def test_a_setting_of_datasets_is_refused_for_files(tmp_path: Path, setting: str):
    (tmp_path / "rows.jsonl").touch()
    with pytest.raises(Refused, match=f"--source.{setting}=train is for a hub dataset.*not every path is one"):
        find_inputs(SourceConfig(path=str(tmp_path / "rows.jsonl"), **{setting: "train"}))


def test_an_input_is_described_by_size_and_digest(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    (described,) = find_inputs(SourceConfig(path=str(tmp_path / "a")))
    assert (described.bytes, described.text_bytes) == (3, 3)
    assert described.digest.startswith("sha256:ba7816bf")


def test_a_file_by_two_names_is_read_once_and_what_has_no_name_for_a_line_is_refused(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "p", "chosen": "c", "rejected": "r"}\n')
    (tmp_path / "latest.jsonl").symlink_to("a.jsonl")
    (tmp_path / "up").symlink_to(tmp_path)
    named = [f"{tmp_path}/latest.jsonl", f"{tmp_path}/*.jsonl", f"{tmp_path}/**/*.jsonl", f"{tmp_path}/up/a.jsonl"]
    assert [each.path for each in find_inputs(SourceConfig(path=named))] == [f"{tmp_path}/latest.jsonl"]
    assert [each.path for each in find_inputs(SourceConfig(path=named[1:]))] == [f"{tmp_path}/a.jsonl"]
    (tmp_path / "b\nok  all is well.jsonl").touch()
    with pytest.raises(Refused, match=r"b\\nok  all is well\.jsonl: the name holds a control character"):
        find_inputs(SourceConfig(path=f"{tmp_path}/*.jsonl"))
