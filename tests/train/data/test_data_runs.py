"""Whole runs with worker processes of the loader: none is left behind, and how many there are changes nothing."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from oddsmill.schemas.errors import RunFailed
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.loop import train
from tests.datasets import packed, random_pairs, write_dataset
from tests.train.curves import logged
from tests.train.data.test_data_workers import ROW_LENGTH, all_gone, with_a_damaged_record
from tests.train.decoders import TINY, VOCAB_SIZE

pytestmark = pytest.mark.slow
NUM_STEPS = 500


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    return {
        "model": ModelConfig(config=str(tmp_path / "config.json")), "max_steps": NUM_STEPS, "total_batch_size": 2,
        "learning_rate": 1e-3, "report_to": [], "save_steps": None,
    }  # fmt: skip


def test_a_run_that_fails_leaves_no_worker(settings, tmp_path):
    data = with_a_damaged_record(tmp_path / "rows", vocab_size=VOCAB_SIZE)
    with pytest.raises(RunFailed, match="not an Arrow IPC stream"):
        train(TrainConfig(data=data, run_dir=str(tmp_path / "run"), dataloader_num_workers=2, **settings))
    assert not multiprocessing.active_children()


def test_a_run_whose_processes_all_get_sigterm_saves_and_goes_on_without_workers(settings, tmp_path):
    rows = packed(random_pairs(np.random.default_rng(0), 90, vocab_size=VOCAB_SIZE), ROW_LENGTH)
    write_dataset(tmp_path / "rows", {"train": rows}, row_length=ROW_LENGTH, vocab_size=VOCAB_SIZE)
    stopped, metrics = tmp_path / "stopped", tmp_path / "stopped" / "metrics.jsonl"
    command = [
        sys.executable, "-m", "oddsmill.train", "run", f"--data={tmp_path / 'rows'}", f"--run_dir={stopped}",
        f"--model.config={settings['model'].config}", f"--max_steps={NUM_STEPS}", "--total_batch_size=2",
        "--learning_rate=1e-3", "--report_to=[]", "--save_steps=null", "--dataloader_num_workers=2",
    ]  # fmt: skip
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            command, cwd=Path(__file__).parents[3], start_new_session=True, stdout=said, stderr=said
        )
        while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") > 5):
            time.sleep(0.02)
        by_thread = Path(f"/proc/{process.pid}/task").glob("*/children")
        children = [int(pid) for path in by_thread for pid in path.read_text().split()]
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
    text = (tmp_path / "said").read_text()
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in text, text
    assert len(children) >= 2 and all_gone(children)
    assert 5 < len(logged(stopped)) < NUM_STEPS
    for run_dir in (stopped, tmp_path / "whole"):
        train(TrainConfig(data=str(tmp_path / "rows"), run_dir=str(run_dir), **settings))
    assert logged(stopped) == logged(tmp_path / "whole")
    weights = [folder / "export" / "model.safetensors" for folder in (stopped, tmp_path / "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
