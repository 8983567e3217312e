from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from oddsmill.schemas.errors import Refused, require
from oddsmill.schemas.settings import load_settings, settings_as_yaml


@dataclass(frozen=True, kw_only=True)
class Inner:
    path: str | list[str]
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Outer:
    source: Inner
    output: str = "out"
    max_length: int = 1024
    seed: int | None = None
    scope: Literal["full", "response"] = "full"
    overwrite: bool = False

    def __post_init__(self) -> None:
        require(self.max_length > 0, "max_length", self.max_length, "must be positive")


def load(*arguments: str) -> Outer:
    return load_settings(Outer, arguments, command="x")


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text("source:\n  path: a.jsonl\nmax_length: 7\nscope: response\n")
    settings = load("--config", str(file), "--max_length=9")
    assert settings == Outer(source=Inner(path="a.jsonl"), max_length=9, scope="response")


def test_settings_come_back_from_their_yaml(tmp_path: Path):
    settings = Outer(source=Inner(path=["a", "b"], fields={"prompt": "question"}), seed=3)
    file = tmp_path / "settings.yaml"
    file.write_text(settings_as_yaml(settings))
    assert load(f"--config={file}") == settings


def test_a_flag_may_stand_alone():
    assert load("--source.path=a", "--overwrite").overwrite
    assert load("--overwrite", "--source.path=a").overwrite
    assert not load("--source.path=a", "--overwrite=false").overwrite
    assert not load("--source.path=a", "--overwrite", "false").overwrite


def test_a_bare_first_argument_sets_the_positional_field():
    assert load_settings(Outer, ["folder", "--source.path=a"], command="x", positional="output").output == "folder"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max_lenght=3"], "unknown setting --max_lenght; did you mean --max_length?"),
        (["--path=a"], "unknown setting --path; did you mean --source.path?"),
        (["--max_length=x"], "--max_length=x: expected int"),
        (["--scope=prompt"], "--scope=prompt: expected one of full, response"),
        (["--max_length=0"], "--max_length=0: must be positive"),
        (["a.jsonl"], "unexpected argument 'a.jsonl': settings are given as --key=value"),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(arguments: list[str], message: str):
    with pytest.raises(Refused) as refused:
        load("--source.path=a", *arguments)
    assert str(refused.value) == message


def test_a_setting_that_is_needed_is_asked_for():
    with pytest.raises(Refused, match=r"^--source\.path is needed"):
        load("--max_length=3")


def test_an_unknown_key_of_the_file_is_named(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text("source:\n  path: a.jsonl\nmax_lenght: 7\n")
    with pytest.raises(Refused, match="max_lenght; did you mean --max_length"):
        load(f"--config={file}")
