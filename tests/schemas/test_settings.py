"""Settings: what their fields say is checked and shown."""

import math

import pytest

from oddsmill.schemas.command_line.reading import load_settings
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.settings import defaults_of, fixed_settings, setting, settings_as_yaml
from tests.schemas.sample_settings import Inner, Outer


def load(*arguments: str) -> Outer:
    return load_settings(Outer, arguments, command="x")


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


def test_the_yaml_of_settings_holds_no_secret():
    text = settings_as_yaml(Outer(source=Inner(path=["https://me:hunter2@host/rows", "a"]), output="out"))
    assert "hunter2" not in text and "https://me:***@host/rows" in text and "output: out" in text
