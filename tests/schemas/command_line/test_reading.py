"""Settings are read from files and arguments."""

from pathlib import Path

import pytest

from oddsmill.schemas.command_line.reading import load_settings, read_command_line
from oddsmill.schemas.console import log
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.settings import settings_as_yaml
from tests.schemas.sample_settings import Inner, Outer


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


def test_messages_are_shown_from_the_level_that_the_command_line_names(capsys: pytest.CaptureFixture[str]):
    for level, shown in (
        ([], "a\nwarning: b\n"),
        (["--log_level=warning"], "warning: b\n"),
        (["--log_level", "error"], ""),
    ):
        assert read_command_line(Outer, ["--source.path=a", *level], command="x") == Outer(source=Inner(path="a"))
        log.info("a")
        log.warning("b")
        assert capsys.readouterr().out == shown
    read_command_line(Outer, ["--source.path=a"], command="x", messages_to_stderr=True)
    log.info("a")
    assert capsys.readouterr() == ("", "a\n")
    with pytest.raises(Refused, match="--log_level: invalid choice: 'loud'"):
        read_command_line(Outer, ["--source.path=a", "--log_level=loud"], command="x")


def test_the_level_of_messages_is_no_setting(tmp_path: Path):
    assert "log_level" not in settings_as_yaml(Outer(source=Inner(path="a")))
    file = tmp_path / "settings.yaml"
    file.write_text("source:\n  path: a.jsonl\nlog_level: debug\n")
    with pytest.raises(Refused, match="unknown setting --log_level"):
        load(f"--config={file}")
