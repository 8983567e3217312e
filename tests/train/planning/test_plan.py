"""`oddsmill train plan`: what it says of a topology is what XLA compiles, and what it cannot plan it refuses."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from oddsmill.train.__main__ import main
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.plan import PlanConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.monitor.mfu import step_flops
from oddsmill.train.parallel.sharding import shard_bytes
from oddsmill.train.planning.plan import _candidates, make_plan
from oddsmill.train.prepare import prepare
from tests.datasets import packed, random_pairs, write_dataset
from tests.train.decoders import TINY, VOCAB_SIZE

ROOT = Path(__file__).parents[3]
MODEL = {**TINY, "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 8,
         "num_key_value_heads": 8}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "config.json"
    path.write_text(json.dumps(MODEL))
    return str(path)


def plan(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "oddsmill.train", "plan", *arguments],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment},
    )  # fmt: skip


def figure(output: str, name: str) -> float:
    found = re.search(rf"^  {re.escape(name)} +([\d,.]+)", output, re.MULTILINE)
    assert found, output
    return float(found.group(1).replace(",", ""))


def test_eight_devices_that_are_not_here(model):
    """Of one device: an eighth of the state; of eight: the model's FLOPs are those of one that has all rows."""
    settings = [f"--model.config={model}", "--row_length=256", "--pairs_per_row=2", "--gradient_checkpointing=true"]
    finished = plan("--topology=cpu:8", *settings)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    output = finished.stdout
    assert "--mesh.fsdp=8 --gradient_checkpointing=true: fits" in output
    assert "8 rows of 256, 16 pairs, 2,032 tokens, 0.8% padding" in output
    parameters = 2 * 512 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 128)  # norms are not split, and little
    assert figure(output, "params") == pytest.approx(4 * parameters / 8 / 2**20, abs=0.1)
    assert figure(output, "optimizer state") == pytest.approx(8 * parameters / 8 / 2**20, abs=0.1)
    gathered = 4 * (2 * (parameters - 2 * 512 * 64) + 512 * 64) / 1e6  # each layer twice, the head once
    assert gathered - 0.1 < figure(output, "all-gather, MB") < 1.2 * gathered
    assert "attention's, by formula" in output


def test_the_step_is_that_of_a_run_on_the_data(tmp_path):
    """Rows, the most pairs and the FLOPs of a plan with data are those of the run's own first step."""
    rows = packed(random_pairs(np.random.default_rng(0), 90, vocab_size=VOCAB_SIZE), 32)
    write_dataset(tmp_path / "data", {"train": rows}, row_length=32, vocab_size=VOCAB_SIZE)
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    settings = {"data": str(tmp_path / "data"), "model": ModelConfig(config=str(tmp_path / "config.json"))}
    found = make_plan(PlanConfig(topology="cpu:1", **settings))
    run = prepare(TrainConfig(run_dir=str(tmp_path), **settings))
    assert found.rows.max_pairs == run.program.objective.max_pairs == max(map(len, rows))
    assert found.rows.row_length == 32 and len(found.rows.branch) == 8
    figures = found.trials[-1].figures
    assert figures.model_flops == step_flops(
        run.model.decoder_config, found.rows.position, found.rows.branch, nll_scope="full", trained_share=1.0
    )
    assert figures.in_place == shard_bytes(run.program.abstract_state)


def refused(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main(["plan", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("refused: ")
    return lines[0]


def test_what_cannot_be_planned_is_refused_in_one_line(model, capsys, monkeypatch):
    jax.devices()  # JAX has begun: from here on it has the devices it has
    given = [f"--model.config={model}", "--row_length=256"]
    assert "nearest are v5e-1, v5e-16" in refused(capsys, *given, "--topology=v5e-15")
    assert "for a GPU only where one is" in refused(capsys, *given, "--topology=h100:8")
    assert "began with 1 CPU device(s)" in refused(capsys, *given, "--topology=cpu:8")
    assert "--topology is needed" in refused(capsys, *given)
    assert "--row_length=None: needed without --data" in refused(capsys, given[0], "--topology=cpu:1")
    assert "no such file" in refused(capsys, "--model.config=nowhere", given[1], "--topology=cpu:1")
    assert "--row_length=8: too short" in refused(capsys, given[0], "--row_length=8", "--topology=cpu:1")
    xla = ["--row_length=100", "--attn_mechanism=xla", "--topology=cpu:1"]
    assert "--attn_mechanism=xla: rows have 100 slots" in refused(capsys, given[0], *xla)
    assert "--data" in refused(capsys, *given, "--topology=cpu:1", "--data=somewhere")
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setitem(sys.modules, "libtpu", None)
    assert "pip install 'oddsmill[tpu]'" in refused(capsys, *given, "--topology=v5e-16")


def test_a_batch_that_no_mesh_divides_is_refused(model):
    finished = plan(
        "--topology=cpu:8", f"--model.config={model}", "--row_length=256", "--total_batch_size=3", "--mesh.fsdp=8"
    )
    assert finished.returncode == 2
    assert finished.stderr.splitlines() == [
        "refused: --total_batch_size=3: must be a multiple of the 8 devices that rows are spread over"
    ]


def test_what_moves_and_computes_least_is_tried_first():
    """fsdp before tensor; of each mesh nothing computed again, then all but the products with weights, then all."""
    config = PlanConfig(model=ModelConfig(config=json.dumps(MODEL)), topology="cpu:4", row_length=32)
    tried = [(mesh.fsdp, mesh.tensor, policy) for mesh, policy in _candidates(config, 4)]
    policies = (False, "dots_with_no_batch_dims_saveable", True)
    assert tried == [(fsdp, 4 // fsdp, policy) for fsdp in (4, 2, 1) for policy in policies]
