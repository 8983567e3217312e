"""The console command: `oddsmill STAGE VERB …` is `python -m oddsmill.STAGE VERB …`."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oddsmill.__main__ import guard_imports_of_children, main
from tests.test_public_names import modules_after

ROOT = Path(__file__).parents[1]


def test_without_a_stage_it_says_which_there_are(capsys: pytest.CaptureFixture):
    assert main([]) == 2
    assert main(["--help"]) == 0
    usage = capsys.readouterr().out
    assert "\n  pipeline " in usage and "\n  train " in usage


def test_an_unknown_stage_is_refused(capsys: pytest.CaptureFixture):
    assert main(["training", "run"]) == 2
    assert "no stage 'training'; there are pipeline and train" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["pipeline", "train"])
def test_it_is_the_command_of_the_stage(stage: str):
    commands = [["oddsmill", stage], [f"oddsmill.{stage}"]]
    outputs = [
        subprocess.run([sys.executable, "-m", *command, "no-verb"], cwd=ROOT, capture_output=True, text=True)
        for command in commands
    ]
    assert outputs[0].returncode == outputs[1].returncode == 2
    assert outputs[0].stderr == outputs[1].stderr != ""


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["train", "--help"], {"jax", "apache_beam", "oddsmill.pipeline"}),
        (["train", "run", "--help"], {"jax", "apache_beam", "oddsmill.pipeline"}),
        (["pipeline", "--help"], {"jax", "apache_beam", "oddsmill.train", "pyarrow", "tokenizers"}),
        (["pipeline", "run", "--help"], {"jax", "apache_beam", "oddsmill.train"}),
    ],
)
def test_help_imports_no_accelerator_no_beam_and_one_stage(arguments: list[str], absent: set[str]):
    code = f"from oddsmill.__main__ import main\ntry: assert main({arguments}) == 0\nexcept SystemExit: pass"
    loaded = modules_after(code)
    assert f"oddsmill.{arguments[0]}" in loaded and not absent & loaded
    assert not [name for name in loaded if "pallas" in name]


def test_a_stage_whose_packages_are_absent_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: Any):
    def absent(name: str) -> None:
        raise ModuleNotFoundError("No module named 'optax'", name="optax")

    monkeypatch.setattr("oddsmill.__main__.import_module", absent)
    assert main(["train", "run"]) == 2
    error = capsys.readouterr().err
    assert "the package optax is not installed" in error and "oddsmill[train]" in error and error.count("\n") == 1


@pytest.mark.parametrize(("path", "guarded"), [(["/usr/lib"], True), (["", "/usr/lib"], False), (["{cwd}"], False)])
def test_a_process_that_it_starts_imports_nothing_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: list[str], guarded: bool
):
    (tmp_path / "bisect.py").write_text("print('a module of a stranger')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    with monkeypatch.context() as context:
        context.setattr(sys, "path", [each.format(cwd=tmp_path) for each in path])
        guard_imports_of_children()
    monkeypatch.setenv("PYTHONSAFEPATH", os.environ.get("PYTHONSAFEPATH", ""))  # is undone with the test
    done = subprocess.run([sys.executable, "-S", "-c", "import bisect"], capture_output=True, text=True, check=True)
    assert (done.stdout == "") is guarded
