"""Settings: what their fields say is checked, shown and loaded."""

import math
from pathlib import Path
from typing import Literal

import pytest

from oddsmill.schemas.console import log
from oddsmill.schemas.errors import Refused, require
from oddsmill.schemas.settings import (
    defaults_of,
    fixed_settings,
    load_settings,
    read_command_line,
    setting,
    settings,
    settings_as_yaml,
)


@settings(group="source.")
class Inner:
    path: str | list[str] = setting("Where it is.")
    fields: dict[str, str] = setting("What it is called.", default_factory=dict)
    margin: float = setting("How far apart.", default=0.5, at_least=0, below=1, may_change=True)


@settings()
class Limits:
    """Groups come first."""

    max_length: int = setting("The longest.", default=1024, above=0)
    seed: int | None = setting("The seed.", default=None, at_least=0, at_most=9)

    def check(self) -> None:
        require(self.max_length != 13, "max_length", self.max_length, "brings bad luck")


@settings()
class Outer(Limits):
    """All of it."""

    source: Inner = setting("The rows.")
    output: str = setting("Where it goes.", default="out", may_change=True)
    scope: Literal["full", "response"] = setting("How much.", default="full")
    overwrite: bool = setting("Replaced.", default=False)
    depth: int = setting("How deep.", default=0, needs=("overwrite", "seed"))
    width: int = setting("How wide.", default=0, only_with={"scope": ("response",)})
    height: int = setting("How high.", default=0, at_least=0, only_with={"seed": (None,)})

    def check(self) -> None:
        require(self.output != "nowhere", "output", self.output, "is no place")


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source.margin=1"], "--source.margin=1.0: must be at least 0 and less than 1"),
        (["--source.margin=.nan"], "--source.margin=nan: must be at least 0 and less than 1"),
        (["--seed=10"], "--seed=10: must be between 0 and 9"),
        (["--height=-1"], "--height=-1: must not be negative"),
        (["--max_length=13"], "--max_length=13: brings bad luck"),
        (["--output=nowhere"], "--output=nowhere: is no place"),
        (["--depth=1"], "--depth=1: has no effect without --overwrite=true or --seed"),
        (["--width=1"], "--width=1: has no effect with --scope=full, only with response; leave it out"),
        (["--height=1", "--seed=3"], "--height=1: has no effect with --seed=3; leave it out"),
    ],
)
def test_a_value_is_checked_against_the_facts_of_its_field_and_by_the_checks_of_its_groups(
    arguments: list[str], message: str
):
    with pytest.raises(Refused) as refused:
        load("--source.path=a", *arguments)
    assert str(refused.value) == message


def test_a_setting_may_stand_where_one_that_reads_it_is_on():
    assert load("--source.path=a", "--depth=1", "--overwrite").depth == 1
    assert load("--source.path=a", "--width=1", "--scope=response").width == 1


def test_from_python_choices_are_checked_as_well_and_nothing_can_be_assigned():
    with pytest.raises(Refused, match="--scope=prompt: expected one of full, response"):
        Outer(source=Inner(path="a"), scope="prompt")  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        Outer(source=Inner(path="a")).seed = 3  # type: ignore[misc]


def test_help_and_docstring_say_what_the_fields_say(capsys: pytest.CaptureFixture[str]):
    assert Outer.__doc__ is not None
    assert Outer.__doc__.startswith("All of it.\n\nArgs:\n  max_length: The longest.\n  seed: The seed.\n  source: ")
    with pytest.raises(SystemExit):
        load("--help")
    shown = capsys.readouterr().out
    assert "  width: How wide. Only with scope=response." in Outer.__doc__
    assert "  depth: How deep. Goes with overwrite or seed." in Outer.__doc__
    assert "--source.path" in shown and "How far apart." in shown and "--log_level" in shown


def test_what_may_change_is_not_what_makes_a_run_the_same():
    outer = Outer(source=Inner(path="a"))
    assert fixed_settings(outer) == {
        "max_length": 1024, "seed": None, "source": {"path": "a", "fields": {}}, "scope": "full", "overwrite": False,
        "depth": 0, "width": 0, "height": 0,
    }  # fmt: skip
    assert defaults_of(Inner) == {"fields": {}, "margin": 0.5}


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


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({}, ""),
        ({"at_least": 0}, "not negative"),
        ({"at_least": 2}, "at least 2"),
        ({"above": 0}, "positive"),
        ({"above": 0, "below": 1}, "positive and less than 1"),
        ({"at_most": 5}, "at most 5"),
        ({"at_least": 0, "below": 1}, "at least 0 and less than 1"),
        ({"at_least": 0, "below": math.inf}, "at least 0 and finite"),
        ({"at_least": 0, "at_most": 1}, "between 0 and 1"),
    ],
)
def test_every_bound_is_in_the_words_of_a_range(bounds: dict[str, float], words: str):
    assert setting("Something.", default=0, **bounds).metadata["facts"].range == words
