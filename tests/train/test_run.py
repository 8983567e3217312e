"""Whole runs by the command line: what a person starts, kills, starts again, and gets wrong."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from oddsmill.train.__main__ import main
from tests.datasets import packed, random_pairs, write_dataset
from tests.train.curves import assert_equal_but_for_rounding, logged
from tests.train.decoders import TINY, VOCAB_SIZE
from tests.train.fake_devices import fake_devices

ROOT = Path(__file__).parents[2]
ROW_LENGTH = 32


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A dataset of random pairs and a model config, as command line arguments."""
    folder = tmp_path_factory.mktemp("inputs")
    pairs = random_pairs(np.random.default_rng(0), 120, vocab_size=VOCAB_SIZE)
    rows = packed(pairs, ROW_LENGTH)
    write_dataset(folder / "data", {"train": rows[6:], "eval": rows[:6]}, row_length=ROW_LENGTH, vocab_size=VOCAB_SIZE)
    (folder / "config.json").write_text(json.dumps(TINY))
    return [f"--data={folder / 'data'}", f"--model.config={folder / 'config.json'}"]


def command(run_dir: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "oddsmill.train", "run", f"--run_dir={run_dir}", *arguments]


def run(run_dir: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(command(run_dir, *arguments), cwd=ROOT, capture_output=True, text=True, env=env)


def test_a_killed_run_goes_on_to_the_same_curve_and_weights_bit_for_bit(inputs, tmp_path, capsys):
    settings = [*inputs, "--max_steps=120", "--save_steps=20", "--eval_steps=30", "--total_batch_size=4"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["run", f"--run_dir={whole}", *settings]) == 0
    # Killed twice: the second time after going on from a checkpoint, in the middle between two saves.
    for kill_after in (45, 75):
        process = subprocess.Popen(command(killed, *settings), cwd=ROOT, stdout=subprocess.DEVNULL)
        metrics = killed / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and f'"step": {kill_after},' in metrics.read_text()):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    finished = run(killed, *settings)
    assert finished.returncode == 0
    assert "going on from the checkpoint of step" in finished.stdout
    assert [line["step"] for line in logged(whole) if "loss" in line] == list(range(1, 121))
    assert logged(killed) == logged(whole)
    names = sorted(path.name for path in (whole / "export").iterdir())
    assert sorted(path.name for path in (killed / "export").iterdir()) == names
    for name in names:
        assert (killed / "export" / name).read_bytes() == (whole / "export" / name).read_bytes(), name
    assert not [path for path in killed.rglob("*") if "tmp" in path.name or "unfinished" in path.name]

    # The same command once more has nothing to do, and says so.
    same = ["run", f"--run_dir={killed}", *settings]
    assert main(same) == 0 and "nothing to do" in capsys.readouterr().out
    assert main([*same, "--log_level=error"]) == 0 and capsys.readouterr().out == ""
    assert "log_level" not in (killed / "settings.yaml").read_text()
    assert logged(killed) == logged(whole)

    # Other settings in the same folder would be neither run: refused, each named.
    assert main([*same, "--beta=0.5", "--adam_beta2=0.9"]) == 2
    refusal = capsys.readouterr().err
    assert "beta: 0.1 -> 0.5" in refusal and "adam_beta2: 0.999 -> 0.9" in refusal


def test_devices_and_micro_batches_do_not_change_the_run(inputs, tmp_path, capsys):
    """One device, four fake ones in a 2 x 2 mesh, and accumulation give the same curve but for rounding."""
    settings = [*inputs, "--max_steps=6", "--learning_rate=1e-2"]
    in_one_batch = [*settings, "--total_batch_size=8"]
    mesh = run(tmp_path / "mesh", *in_one_batch, "--mesh.fsdp=2", "--mesh.tensor=2", env=fake_devices(4))
    assert mesh.returncode == 0, mesh.stderr
    assert "4 device(s)" in mesh.stdout
    assert main(["run", f"--run_dir={tmp_path / 'one'}", *in_one_batch]) == 0
    assert "1 device(s)" in capsys.readouterr().out
    accumulated = ["--total_batch_size=2", "--gradient_accumulation_steps=4"]
    assert main(["run", f"--run_dir={tmp_path / 'accumulated'}", *settings, *accumulated]) == 0
    expected = load_file(tmp_path / "one" / "export" / "model.safetensors")
    for name in ("mesh", "accumulated"):
        assert_equal_but_for_rounding(logged(tmp_path / name), logged(tmp_path / "one"))
        weights = load_file(tmp_path / name / "export" / "model.safetensors")
        for tensor, value in expected.items():
            np.testing.assert_allclose(weights[tensor], value, atol=2e-3, rtol=0)


@pytest.fixture(scope="module")
def data_folder(inputs):
    return Path(inputs[0].removeprefix("--data="))


@pytest.fixture
def refusal(tmp_path, capsys):
    """The one line on stderr of a command that must be refused, run in this process."""

    def run_refused(*arguments: str) -> str:
        capsys.readouterr()
        assert main(["run", f"--run_dir={tmp_path / 'run'}", *arguments]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("refused: ")
        return lines[0]

    return run_refused


def copy_of_data(data_folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(data_folder, copy)
    return copy


def test_bad_settings_are_refused(inputs, refusal):
    assert "did you mean --learning_rate?" in refusal(*inputs, "--learnin_rate=1")
    assert "--max_steps=many: expected int" in refusal(*inputs, "--max_steps=many")
    assert "--beta=-1.0: must not be negative" in refusal(*inputs, "--beta=-1")
    assert "--data is needed" in refusal(inputs[1])
    assert "--mesh.fsdp=3 --mesh.tensor=1: their product" in refusal(*inputs, "--mesh.fsdp=3")
    assert "--attn_mechanism=xla: rows have" in refusal(*inputs, "--attn_mechanism=xla")
    late = [*inputs, "--max_steps=3", "--profile_steps=[2,4]"]
    assert "--profile_steps=[2, 4]: the run has 3 steps" in refusal(*late)


def test_settings_of_evaluations_are_refused_where_there_are_none(inputs, tmp_path, refusal):
    rows = [[pair] for pair in random_pairs(np.random.default_rng(0), 9, vocab_size=VOCAB_SIZE)]
    write_dataset(tmp_path / "data", {"train": rows}, row_length=ROW_LENGTH, vocab_size=VOCAB_SIZE)
    for setting in ("eval_steps=2", "eval_batch_size=2"):
        assert f"--{setting}: {tmp_path / 'data'} has no eval split" in refusal(
            f"--data={tmp_path / 'data'}", inputs[1], f"--{setting}"
        )


def test_data_that_are_not_there_or_altered_are_refused(inputs, data_folder, tmp_path, refusal):
    assert "no such folder" in refusal("--data=nowhere", inputs[1])
    copy = copy_of_data(data_folder, tmp_path)
    shard = copy / "train-00000-of-00001.arrayrecord"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "train-00000-of-00001.arrayrecord was altered" in refusal(f"--data={copy}", inputs[1])
    shard.unlink()
    assert "train-00000-of-00001.arrayrecord is missing" in refusal(f"--data={copy}", inputs[1])
    (copy / "manifest.json").unlink()
    assert "preprocessing did not finish" in refusal(f"--data={copy}", inputs[1])


def test_data_of_another_tokenizer_or_vocabulary_are_refused(inputs, data_folder, tmp_path, refusal):
    small = tmp_path / "small.json"
    small.write_text(json.dumps({**TINY, "vocab_size": VOCAB_SIZE - 1}))
    assert f"the model has ids below {VOCAB_SIZE - 1}" in refusal(inputs[0], f"--model.config={small}")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(TINY))
    (model / "tokenizer.json").write_text("{}")
    assert "another tokenizer" in refusal(inputs[0], f"--model.config={model}")


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_pairs(inputs, tmp_path, capsys):
    settings = [*inputs, "--max_steps=20", "--learning_rate=1e38", "--max_grad_norm=null"]
    assert main(["run", f"--run_dir={tmp_path / 'run'}", *settings]) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "at step 2; pairs of the rows that are not finite alone: 0000" in error
    assert not (tmp_path / "run" / "export").exists()
