"""The command line of the trainer: verbs, refusals, and what goes to standard output."""

from collections.abc import Callable
from pathlib import Path

import pytest

from oddsmill.train.__main__ import main

TINY = Path(__file__).parents[2] / "recipes" / "tiny"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


def test_help_names_the_verbs(command: Callable):
    code, out, _ = command("--help")
    assert code == 0
    assert all(f"\n  {verb} " in out for verb in ("run", "eval", "generate", "plan", "export"))
    assert command()[0] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown verb 'trian'; known: run, eval, generate, plan, export"),
        (["run", "--dta=x"], "unknown setting --dta; did you mean --data?"),
        (
            ["run", "--data=nowhere", "--run_dir=run", f"--model.config={TINY / 'config.json'}"],
            "nowhere: no such folder",
        ),
        (["eval", "--run_dir=nowhere"], "nowhere"),
        (["generate", "--model.path=nowhere", "--prompt=x"], "nowhere"),
        (["export", "--run_dir=nowhere", "--out=out"], "nowhere"),
        (["plan", "--topology=v9x-4", f"--model.config={TINY / 'config.json'}", "--row_length=64"], "v9x-4"),
    ],
)
def test_a_refusal_is_one_message_and_exit_code_2(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(*arguments)
    assert code == 2
    assert err.startswith("refused: ") and err.count("\n") == 1
    assert message in err
    assert out == ""
    assert not list(tmp_path.iterdir())
