"""Settings are values: whatever stands in a file of them, no code is imported and nothing is lost."""

import os
import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import pytest
import yaml

from oddsmill.pipeline.config import PreprocessConfig
from oddsmill.schemas.command_line.given import groups_of
from oddsmill.schemas.command_line.reading import load_settings
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.settings import setting_types
from oddsmill.train.config.generate import GenerateConfig
from oddsmill.train.config.train_config import TrainConfig
from tests.schemas.sample_settings import Inner, Outer

HOSTILE = (
    "hostile.Class",
    {"class_path": "hostile.Class"},
    {"class_path": "hostile.call", "init_args": {"command": "true"}},
    {"x": {"class_path": "hostile.call", "init_args": {"command": "true"}}},
    {"x": [{"class_path": "hostile.call"}]},
    {"x.class_path": "hostile.call"},
    ["hostile.Class", {"class_path": "hostile.Class"}],
    {"init_args": {"a": 1}, "dict_kwargs": {}},
    {"__path__": "hostile"},
)


class _Watch(MetaPathFinder):
    def __init__(self) -> None:
        self.asked: list[str] = []

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname.startswith("hostile"):
            self.asked.append(fullname)


@pytest.fixture
def imports() -> Iterator[list[str]]:
    """The names of hostile modules that were looked for."""
    watch = _Watch()
    sys.meta_path.insert(0, watch)
    yield watch.asked
    sys.meta_path.remove(watch)


@pytest.mark.parametrize("settings_class", [TrainConfig, GenerateConfig, PreprocessConfig])
def test_no_setting_of_a_file_names_code(settings_class: type, imports: list[str]):
    groups = list(groups_of(settings_class))
    free = [name for name, kind in setting_types(settings_class) if "Any" in str(kind)]
    for name in [*groups, *free, "config", "class_path"]:
        for value in HOSTILE:
            text = yaml.safe_dump({name: value}, default_flow_style=True, width=2**31).strip()
            with pytest.raises(Refused):
                load_settings(settings_class, [f"--config={text}"], command="x")
    assert imports == []


def test_what_names_code_is_refused_with_its_place(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text("source:\n  path: a\n  fields:\n    class_path: os.system\n")
    with pytest.raises(Refused) as refused:
        load_settings(Outer, [f"--config={file}"], command="x")
    assert str(refused.value) == f"{file}: class_path: a setting names no class or function; leave it out"
    file.write_text("source: os.system\n")
    with pytest.raises(Refused) as refused:
        load_settings(Outer, ["--config", str(file)], command="x")
    wanted = "--source=os.system: expected a group of settings; did you mean --source.path=os.system?"
    assert str(refused.value) == f"{file}: {wanted}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config={file}"], "{file}: line 3: the key 'seed' stands twice, first in line 1"),
        (["--config", "{file}"], "{file}: line 3: the key 'seed' stands twice, first in line 1"),
        (
            ["--source.path=a", '--source.fields={{"x": "a", "x": "b"}}'],
            "--source.fields: line 1: the key 'x' stands twice, first in line 1",
        ),
        (["--source.path=a", "--source.fields.class_path=x"], "a setting names no class or function"),
        (["--source.path=" + os.fsdecode(b"r\xe9sum\xe9")], "--source.path=r\udce9sum\udce9: is not UTF-8"),
        (["--source=rows.jsonl"], "expected a group of settings; did you mean --source.path=rows.jsonl?"),
    ],
)
def test_a_key_that_stands_twice_and_a_text_for_a_group_are_refused(tmp_path: Path, arguments: list[str], message: str):
    file = tmp_path / "settings.yaml"
    file.write_text("seed: 1\nsource: {path: a}\nseed: 2\n")
    with pytest.raises(Refused) as refused:
        load_settings(Outer, [argument.format(file=file) for argument in arguments], command="x")
    assert message.format(file=file) in str(refused.value)


def test_aliases_and_files_of_groups_are_read(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text("source: {path: &it a, fields: {x: *it}}\n")
    assert load_settings(Outer, [f"--config={file}"], command="x").source == Inner(path="a", fields={"x": "a"})
    file.write_text("path: a\n")
    assert load_settings(Outer, [f"--source={file}"], command="x").source == Inner(path="a")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_bytes(b"seed: \xff\n")
    with pytest.raises(Refused, match=r"settings\.yaml: it is no text in UTF-8"):
        load_settings(Outer, [f"--config={file}"], command="x")
