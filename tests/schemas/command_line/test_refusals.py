"""A refused setting is named, with what would be right."""

from pathlib import Path

import pytest

from oddsmill.schemas.command_line.reading import load_settings
from oddsmill.schemas.errors import Refused
from tests.schemas.sample_settings import Outer


def load(*arguments: str) -> Outer:
    return load_settings(Outer, arguments, command="x")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max_lenght=3"], "unknown setting --max_lenght; did you mean --max_length?"),
        (["--path=a"], "unknown setting --path; did you mean --source.path?"),
        (["--max_length=x"], "--max_length=x: expected int"),
        (["--scope=prompt"], "--scope=prompt: expected one of full, response"),
        (["--max_length=0"], "--max_length=0: must be positive"),
        (["a.jsonl"], "unexpected argument 'a.jsonl': settings are given as --name=value"),
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
