"""A run that is killed again and again, at random moments and inside saves, equals one that never was."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.datasets import packed, random_pairs, write_dataset
from tests.train.curves import logged
from tests.train.decoders import TINY, VOCAB_SIZE

ROW_LENGTH, NUM_STEPS, SAVE_STEPS, KILLS = 32, 400, 5, 20


def command(arguments: list[str], output: str) -> None:
    """The child: `oddsmill train run …` with its output in a file."""
    with open(output, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from oddsmill.train.__main__ import main

    os._exit(main(["run", *arguments]))


class Runs:
    """Runs in processes that are forked from one which has imported all there is: a start costs a second, not ten."""

    def __init__(self, folder: Path):
        rows = packed(random_pairs(np.random.default_rng(0), 120, vocab_size=VOCAB_SIZE), ROW_LENGTH)
        splits = {"train": rows[6:], "eval": rows[:6]}
        write_dataset(folder / "data", splits, row_length=ROW_LENGTH, vocab_size=VOCAB_SIZE)
        (folder / "config.json").write_text(json.dumps(TINY))
        self._folder = folder
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["oddsmill.train.loop", "oddsmill.train.__main__"])

    def start(self, name: str) -> multiprocessing.Process:
        arguments = [
            f"--data={self._folder / 'data'}", f"--model.config={self._folder / 'config.json'}",
            f"--run_dir={self._folder / name}", f"--max_steps={NUM_STEPS}", f"--save_steps={SAVE_STEPS}",
            "--eval_steps=20", "--total_batch_size=4", "--learning_rate=1e-2", "--gradient_checkpointing=false",
            "--load_best_model_at_end=true", "--early_stopping_patience=100",
        ]  # fmt: skip
        process = self._context.Process(target=command, args=(arguments, str(self._folder / f"{name}.txt")))
        process.start()
        return process


def last_step(run_dir: Path) -> int:
    """The step of the last whole line of metrics."""
    path = run_dir / "metrics.jsonl"
    for line in reversed(path.read_text().splitlines() if path.exists() else []):
        try:
            return json.loads(line)["step"]
        except ValueError:
            continue
    return 0


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_run_killed_at_twenty_random_moments_equals_one_that_never_was(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    runs, rng = Runs(tmp_path), random.Random(20)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = runs.start("whole")
    process.join()
    assert process.exitcode == 0, (tmp_path / "whole.txt").read_text()

    checkpoints = killed / "checkpoints"
    inside_saves = 0
    for number in range(KILLS):
        seen = set(checkpoints.iterdir()) if checkpoints.exists() else set()
        # Further than the run has been yet; every third as soon as a save begins there, some while it starts.
        target = last_step(killed) + rng.randint(1, 2 * NUM_STEPS // KILLS - 6)
        in_save, at_start = number % 3 == 1, number in (5, 14)
        process = runs.start("killed")
        if at_start:
            time.sleep(rng.uniform(0.2, 4))
        while process.is_alive() and not at_start:
            reached = last_step(killed) >= target
            saving = checkpoints.exists() and any("tmp" in path.name for path in set(checkpoints.iterdir()) - seen)
            if reached and (saving or not in_save):
                break
            time.sleep(0.0005)
        if not in_save:
            time.sleep(rng.uniform(0, 0.02))
        kind = signal.SIGTERM if number % 2 else signal.SIGKILL
        assert process.is_alive(), (tmp_path / "killed.txt").read_text()
        os.kill(process.pid, kind)
        inside_saves += checkpoints.exists() and any("tmp" in path.name for path in checkpoints.iterdir())
        process.join()
        # Before the first step there is nothing to save, and SIGTERM simply ends the process.
        codes = {-signal.SIGKILL} if kind == signal.SIGKILL else {143, -signal.SIGTERM}
        assert process.exitcode in codes, (tmp_path / "killed.txt").read_text()
    process = runs.start("killed")
    process.join()
    assert process.exitcode == 0, (tmp_path / "killed.txt").read_text()

    assert inside_saves >= 3
    assert [line["step"] for line in logged(whole) if "loss" in line] == list(range(1, NUM_STEPS + 1))
    assert logged(killed) == logged(whole)
    assert files_of(killed / "export") == files_of(whole / "export")
    assert not [path for path in killed.rglob("*") if "tmp" in path.name or "unfinished" in path.name]
