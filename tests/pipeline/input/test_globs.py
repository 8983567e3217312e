"""Globs find what Python's finds, and each real file once."""

import glob
import os
from pathlib import Path

import pytest

from oddsmill.pipeline.input.globs import find_local_matches


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a.jsonl", "b.txt", "x/c.jsonl", "x/y/d.jsonl", "x/y/.hidden.jsonl", ".dot/e.jsonl", "z [1]/f.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "pattern",
    ["*.jsonl", "**/*.jsonl", "x/**/*.jsonl", "**/y/*.jsonl", "x/**/y/**/*.jsonl", "**", "x/**", "./**/*.jsonl", "*/*"],
)
def test_without_links_the_files_are_those_of_python(tree: Path, pattern: str):
    for given in (pattern, f"{tree}/{pattern}"):
        expected = {os.path.normpath(path) for path in glob.glob(given, recursive=True) if os.path.isfile(path)}
        found = find_local_matches(given)
        assert {os.path.normpath(path) for path in found} == expected and len(found) == len(expected)
        assert found == sorted(found)


def test_circles_and_second_names_add_nothing(tree: Path):
    before = find_local_matches("**/*.jsonl")
    (tree / "x" / "up").symlink_to("..")
    (tree / "x" / "y" / "again").symlink_to("../..", target_is_directory=True)
    (tree / "x" / "itself").symlink_to(".")
    (tree / "latest.jsonl").symlink_to("a.jsonl")
    (tree / "0.jsonl").symlink_to("a.jsonl")
    assert find_local_matches("**/*.jsonl") == before
    assert find_local_matches("*.jsonl") == ["a.jsonl"]
    (tree / "broken.jsonl").symlink_to("nowhere")
    assert find_local_matches("*.jsonl") == ["a.jsonl"]


def test_a_folder_elsewhere_is_entered_by_its_link(tree: Path, tmp_path_factory: pytest.TempPathFactory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "g.jsonl").touch()
    for name in ("one", "two"):
        (tree / name).symlink_to(elsewhere)
    assert [path for path in find_local_matches("**/*.jsonl") if path.endswith("g.jsonl")] == ["one/g.jsonl"]
