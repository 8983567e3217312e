"""TRL's training curves, step for step, by the whole of our trainer: loader, step, optimizer, schedule, export."""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from oddsmill.schemas.record import Pair
from oddsmill.schemas.settings import settings_as_yaml
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.monitor.metrics import last_evaluation
from tests.compilation import as_in_a_run
from tests.datasets import write_dataset

ROOT = Path(__file__).parents[2]
ABSOLUTE = {
    "loss": 2e-5,
    "nll_loss": 2e-5,
    "logps/chosen": 2e-5,
    "logps/rejected": 2e-5,
    "log_odds_chosen": 2e-5,
    "log_odds_ratio": 2e-5,
    "rewards/chosen": 1e-5,
    "rewards/rejected": 1e-5,
    "rewards/margins": 1e-5,
    "rewards/accuracies": 0,
    "learning_rate": 1e-12,
}


def run_as_users_do(config, file):
    """By the command, in a process that compiles as theirs does."""
    file.write_text(settings_as_yaml(config))
    command = [sys.executable, "-m", "oddsmill.train", "run", "--config", str(file)]
    finished = subprocess.run(command, cwd=ROOT, env=as_in_a_run(), capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def golden_rows(folder, split):
    lines = gzip.decompress((folder / "rows.jsonl.gz").read_bytes()).decode().split("\n")
    for row in (json.loads(line) for line in lines if line):
        if row["split"] == split:
            prompt = [
                token
                for token, label in zip(row["chosen_input_ids"], row["chosen_labels"], strict=True)
                if label == -100
            ]
            sides = {side: row[f"{side}_input_ids"][len(prompt) :] for side in ("chosen", "rejected")}
            yield Pair(prompt=prompt, **sides, id=row["i"] + 1)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("llama-ga1-nowarmup", marks=pytest.mark.slow),
        pytest.param("llama-ga4-warmup5-wd0.1", marks=pytest.mark.slow),
        "qwen2-ga1-warmup4-beta0.25",
        "qwen2-ga4-partial-epochs",
    ],
)
def test_twenty_steps_equal_trl(shared, tmp_path, name):
    """One pair a row, source order, NLL over prompt and answer: metrics of every step and the final weights."""
    folder = shared / "golden" / "training" / name
    run = json.loads((folder / "run.json").read_text())
    arguments = run["args"]
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    splits = {split: [[pair] for pair in golden_rows(folder, split)] for split in ("train", "eval")}
    write_dataset(tmp_path / "data", splits, row_length=2 * arguments["max_length"], vocab_size=vocab_size)
    (tmp_path / "model").mkdir()
    shutil.copy(folder / "config.json", tmp_path / "model")
    shutil.copy(folder / "initial.safetensors", tmp_path / "model" / "model.safetensors")
    config = TrainConfig(
        data=str(tmp_path / "data"),
        run_dir=str(tmp_path / "run"),
        model=ModelConfig(path=str(tmp_path / "model")),
        beta=arguments["beta"],
        nll_scope="full",
        learning_rate=arguments["learning_rate"],
        warmup_steps=arguments["warmup_steps"],
        weight_decay=arguments["weight_decay"],
        adam_beta1=arguments["adam_beta1"],
        adam_beta2=arguments["adam_beta2"],
        adam_epsilon=arguments["adam_epsilon"],
        max_grad_norm=arguments["max_grad_norm"],
        total_batch_size=arguments["per_device_train_batch_size"],
        gradient_accumulation_steps=arguments["gradient_accumulation_steps"],
        max_steps=arguments["max_steps"],
        shuffle_train_dataset=False,
        compat="trl",
    )
    run_as_users_do(config, tmp_path / "settings.yaml")
    golden = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    golden = [line for line in golden if "loss" in line]
    found = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = [line for line in found if "loss" in line]
    assert len(found) == len(golden) == 20
    for ours, theirs in zip(found, golden, strict=True):
        assert ours["step"] == theirs["step"]
        for metric, tolerance in ABSOLUTE.items():
            np.testing.assert_allclose(
                ours[metric], theirs[metric], atol=tolerance, rtol=0, err_msg=f"{metric} {ours['step']}"
            )
        np.testing.assert_allclose(ours["grad_norm"], theirs["grad_norm"], rtol=1e-4)
    ours, theirs = load_file(tmp_path / "run" / "export" / "model.safetensors"), load_file(folder / "final.safetensors")
    assert set(ours) == set(theirs) - ({"lm_head.weight"} - set(ours))
    for tensor in ours:
        difference = np.abs(ours[tensor] - theirs[tensor])
        assert difference.max() < 5e-4 and difference.mean() < 1e-5, tensor
    # TRL averages its eval metrics over batches, ours is over pairs: only the NLL's own batching shows.
    evaluation = last_evaluation(tmp_path / "run" / "metrics.jsonl")
    assert evaluation["eval/loss"] == pytest.approx(run["eval_after_training"]["metrics"]["eval_loss"], rel=0.02)
