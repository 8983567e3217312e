"""The command line as a user meets it: refusals, other processes, a process that dies."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def arguments(write_rows: Callable, triples: Callable, tokenizer_folder: Path, tmp_path: Path) -> list[str]:
    path = write_rows("rows.jsonl", triples(30))
    return [f"--source.path={path}", f"--tokenizer={tokenizer_folder}", f"--output={tmp_path / 'out'}"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--source.path=nowhere.jsonl", "--source.path=nowhere.jsonl: no such file"),
        ("--source.path=nothing*.jsonl", "--source.path=nothing*.jsonl: no file matches"),
        ("--max_lenght=9", "unknown setting --max_lenght; did you mean --max_length?"),
        ("--path=x", "unknown setting --path; did you mean --source.path?"),
        ("--max_length=many", "--max_length=many: expected int"),
        ("--max_length=1", "--max_length=1: must hold a prompt and an answer: at least 2"),
        ("--source.format=csv", "--source.format=csv: must be one of triple, transcript, sharegpt, messages"),
        ("--tokenizer=.", ". has no tokenizer.json: copy the model"),
        ("--tokenizer=nowhere", "--tokenizer=nowhere: no such folder, and not a hub id"),
        ("--output=/proc/out", "--output=/proc/out: cannot write there"),
        ("--config=nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_a_refusal_is_one_message_and_exit_code_2(
    command: Callable, arguments: list[str], tmp_path: Path, change: str, message: str
):
    code, _, err = command("run", *arguments, change)
    assert code == 2
    assert err.startswith("refused: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_level_of_messages_is_chosen_and_kept_nowhere(command: Callable, arguments: list[str], tmp_path: Path):
    assert command("run", *arguments, "--log_level=warning") == (0, "", "")
    for name in ("manifest.json", "run.json"):
        assert "log_level" not in (tmp_path / "out" / name).read_text()
    code, out, err = command("run", *arguments)
    assert (code, err) == (0, "") and "nothing changed" in out
    assert command("inspect", tmp_path / "out", "--log_level=loud")[::2] == (
        2, "refused: --log_level: invalid choice: 'loud' (choose from 'debug', 'info', 'warning', 'error')\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--direct_num_worker=2", "Beam does not know the option --direct_num_worker; did you mean"),
        ("--direct_num_workers=x", "Beam options: argument --direct_num_workers: invalid int value: 'x'"),
        ("--runner=NoSuchRunner", "Beam: Unexpected pipeline runner: NoSuchRunner."),
    ],
)
def test_a_wrong_option_of_beam_is_refused_before_anything_is_written(
    command: Callable, arguments: list[str], tmp_path: Path, flag: str, message: str
):
    code, _, err = command("run", *arguments, "--", flag)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_options_of_beam_in_the_settings_are_obeyed_and_the_command_line_wins(command: Callable, arguments: list[str]):
    assert command("run", *arguments, '--beam_options={"direct_num_workers": "x"}')[0] == 2
    assert (
        command("run", *arguments, '--beam_options={"direct_num_workers": 2}', "--", "--direct_num_workers=1")[0] == 0
    )


def test_help_names_the_verbs_and_each_setting(command: Callable):
    code, out, _ = command()
    assert code == 0
    assert all(f"\n  {verb} " in out for verb in ("run", "plan", "explain", "inspect", "verify", "report"))
    code, _, err = command("runn")
    assert code == 2
    assert "there are run, plan, explain, inspect, verify, report" in err


def test_the_stage_runs_without_the_libraries_of_the_other(arguments: list[str], tmp_path: Path):
    blocked = "jax", "jaxlib", "flax", "grain", "optax", "orbax", "oddsmill.train"
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked}))\n"
        "from oddsmill.pipeline.__main__ import run_verb\n"
        f"run_verb(['run', *{arguments}]); run_verb(['verify', {str(tmp_path / 'out')!r}])\n"
        f"run_verb(['inspect', {str(tmp_path / 'out')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_rerun_does_not_import_beam(command: Callable, arguments: list[str]):
    assert command("run", *arguments)[0] == 0
    code = (
        "import sys; sys.modules['apache_beam'] = None\n"
        f"from oddsmill.pipeline.__main__ import main; sys.exit(main(['run', *{arguments}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "nothing changed" in done.stdout


def test_after_a_kill_the_same_command_gives_the_bytes_of_an_uninterrupted_run(
    run: Callable, write_rows: Callable, triples: Callable, tokenizer_folder: Path, tmp_path: Path
):
    path = write_rows("rows.jsonl", triples(3000))
    settings = {"num_shards": 40, "max_length": 64}
    whole = run("whole", path, **settings)
    killed = tmp_path / "killed"
    flags = [f"--{name}={value}" for name, value in (settings | {"max_prompt_length": 32, "output": killed}).items()]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "oddsmill.pipeline",
            "run",
            f"--source.path={path}",
            f"--tokenizer={tokenizer_folder}",
            *flags,
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    while not list(killed.glob("*.arrayrecord")):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (killed / "unfinished.json").exists()
    assert not (killed / "manifest.json").exists()
    assert len(list(killed.glob("*.arrayrecord"))) < 41
    again = run("killed", path, **settings)
    assert again.digests == whole.digests
    assert again.names == whole.names
