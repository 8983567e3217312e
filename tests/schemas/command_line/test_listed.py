"""A group of settings that may be a list of groups."""

from pathlib import Path
from typing import Any

import pytest

from oddsmill.schemas.command_line.reading import load_settings
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.settings import setting, settings, settings_as_yaml


@settings(group="source.")
class Inner:
    """One."""

    path: str = setting("Where it is.")
    margin: float = setting("How far apart.", default=0.5, at_least=0)
    fields: dict[str, str] = setting("What it is called.", default_factory=dict)


@settings()
class Outer:
    """All."""

    source: Inner | list[Inner] = setting("One or several.")
    seed: int = setting("A number.", default=0)


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """Loads from arguments; `{file}` in them is a file that holds the text given."""

    def call(*arguments: str, file: str = "") -> Outer:
        path = tmp_path / "settings.yaml"
        path.write_text(file)
        return load_settings(Outer, [argument.format(file=path) for argument in arguments], command="x")

    return call


A, B = Inner(path="a"), Inner(path="b", margin=1e-3, fields={"prompt": "q"})
LIST = "[{{path: a}}, {{path: b, margin: 1e-3, fields: {{prompt: q}}}}]"
FILE = "source:\n- path: a\n- path: b\n  margin: 1e-3\n  fields: {prompt: q}\nseed: 3\n"


@pytest.mark.parametrize(
    ("arguments", "file", "source"),
    [
        (["--source.path=a"], "", A),
        (["--source={{path: a}}"], "", A),
        ([f"--source={LIST}"], "", [A, B]),
        (["--source", LIST, "--seed=2"], "", [A, B]),
        (["--source={file}"], "[{path: a}]", [A]),
        (["--source={file}"], "path: a", A),
        (["--config={file}"], FILE, [A, B]),
        (["--config", "{file}", "--source=[{{path: a}}]"], FILE, [A]),
        (["--config={file}", "--source={{path: a}}"], FILE, A),
        (["--config={file}", f"--source={LIST}"], "source: {path: x, margin: 7}", [A, B]),
        (["--config={file}", "--config=source: {{path: a}}"], FILE, A),
        ([f"--source={LIST}", "--config={file}"], "source: {path: a}", A),
    ],
)
def test_the_last_that_is_given_whole_is_taken_and_nothing_is_merged(
    load: Any, arguments: list[str], file: str, source: Any
):
    assert load(*arguments, file=file).source == source


def test_what_else_a_file_says_stays_and_the_yaml_of_a_list_is_read_again(load: Any):
    settings = load("--config={file}", file=FILE)
    assert settings.seed == 3
    assert load("--config={file}", "--seed=4", file=FILE).seed == 4
    assert load("--config={file}", file=settings_as_yaml(settings)) == settings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source=[{{path: a}}, {{path: b, margni: 2}}]"], "--source[1].margni; did you mean --source[1].margin?"),
        (["--source=[{{path: a}}, {{margin: 2}}]"], "--source[1].path is needed"),
        (["--source=[{{path: a, margin: x}}]"], "--source[0].margin=x: expected float"),
        (["--source=[{{path: a}}, {{path: b, margin: -1}}]"], "--source[1].margin=-1.0: must not be negative"),
        (["--source=[a.jsonl, b.jsonl]"], "--source[0]=a.jsonl: expected a group of settings"),
        (["--source=a.jsonl"], "did you mean --source.path=a.jsonl?"),
        (["--source=[{{path: a"], "--source=[{path: a: give a group of settings, a list of groups"),
        (["--source=[]"], "--source=[]: give at least one"),
        (["--source=[{{path: a}}]", "--source.margin=2"], "--source.margin=2: has no effect, since --source is a list"),
        (["--source.margin=2", "--source=[{{path: a}}]"], "--source.margin=2: has no effect, since --source is a list"),
        (["--seed=1"], "--source.path is needed"),
    ],
)  # fmt: skip
def test_a_refusal_says_which_of_the_list_it_is_about(load: Any, arguments: list[str], message: str):
    with pytest.raises(Refused) as refused:
        load(*arguments)
    assert message in str(refused.value)


def test_the_settings_of_one_group_are_in_the_help(load: Any, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        load("--help")
    assert "--source.margin MARGIN" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        load(f"--source={LIST}", "--print_config")
    assert "- path: b\n  margin: 0.001\n" in capsys.readouterr().out
