"""The Python API: what a person who comes from EasyDeL's tutorial or from TRL writes."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_type_hints

import numpy as np
import pytest
from safetensors.numpy import load_file

import oddsmill
from oddsmill import DistributedConfig, ModelConfig, ORPOConfig, ORPOTrainer
from oddsmill.__main__ import main
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import read_manifest
from oddsmill.train.checkpoint.run_files import RunFiles
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.monitor.metrics import last_evaluation
from oddsmill.train.trainer import check_processing_class, tokenizer_settings
from tests.datasets import packed, random_pairs, write_dataset
from tests.train.decoders import TINY, VOCAB_SIZE

ROOT = Path(__file__).parents[2]
ROW_LENGTH = 32
TINY_RECIPE = ROOT / "recipes" / "tiny"


@pytest.fixture
def prepared(tmp_path):
    """(preprocessed folder, model): random pairs and a model from random weights."""
    rows = packed(random_pairs(np.random.default_rng(0), 40, vocab_size=VOCAB_SIZE), ROW_LENGTH)
    splits = {"train": rows[4:], "eval": rows[:4]}
    write_dataset(tmp_path / "rows", splits, row_length=ROW_LENGTH, vocab_size=VOCAB_SIZE)
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    return tmp_path / "rows", ModelConfig(config=str(tmp_path / "config.json"))


def arguments(tmp_path, **changes):
    return ORPOConfig(**{"run_dir": str(tmp_path / "run"), "total_batch_size": 4, "max_steps": 3, **changes})


@pytest.mark.slow
def test_a_preprocessed_folder_is_trained_on_measured_and_saved(prepared, tmp_path, capsys):
    data, model = prepared
    trainer = ORPOTrainer(arguments(tmp_path, learning_rate=1e-2), model, train_dataset=data, eval_dataset=data)
    assert type(trainer.arguments) is TrainConfig
    before = trainer.evaluate()
    after = trainer.train()
    assert after == last_evaluation(tmp_path / "run" / "metrics.jsonl") and after["eval/loss"] < before["eval/loss"]
    assert trainer.evaluate() == pytest.approx(after, rel=1e-5)
    trainer.save_pretrained(tmp_path / "saved")
    exported = load_file(tmp_path / "run" / "export" / "model.safetensors")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert saved.keys() == exported.keys()
    assert all(np.array_equal(saved[name], exported[name]) for name in saved)
    # Another object with the same settings goes on: there is nothing left to do.
    again = ORPOTrainer(arguments(tmp_path, learning_rate=1e-2), model, train_dataset=data, eval_dataset=data)
    assert again.train() == after
    assert capsys.readouterr() == ("", "")  # a library is quiet


def test_what_would_have_no_effect_is_refused(prepared, tmp_path):
    data, model = prepared

    def refused(match, *, model=model, train_dataset=data, settings=None, **given):
        with pytest.raises(Refused, match=match):
            ORPOTrainer(arguments(tmp_path, **(settings or {})), model, train_dataset, **given)

    refused("data_collator: rows are laid out once", data_collator=len)
    refused("max_length: no effect on rows that are preprocessed", settings={"max_length": 64})
    refused("model is a dict; give a Hugging Face folder", model={})
    refused("model is nothing", model=None)
    refused("model is given twice: here, and as", settings={"model": ModelConfig(path="another")})
    refused("train_dataset is given twice: here, and as 'another'", settings={"data": "another"})
    refused("eval_dataset is given twice: here, and as 'a'", settings={"eval_data": "a"}, eval_dataset="b")
    refused("train_dataset=None: give the rows", train_dataset=None)
    refused("preprocessing: eval_share has no effect with an eval_dataset", train_dataset=[{}], eval_dataset=[{}],
            settings={"preprocessing": {"eval_share": 0.1}})  # fmt: skip
    other = tmp_path / "tokenizer"
    other.mkdir()
    (other / "tokenizer.json").write_text("{}")
    refused("processing_class: train_dataset was made with another tokenizer", processing_class=str(other))


def test_no_older_weights_are_measured_or_saved_for_those_of_the_end(prepared, tmp_path, monkeypatch):
    data, model = prepared
    done = []
    monkeypatch.setattr("oddsmill.train.trainer.export_checkpoint", lambda config: done.append(config.checkpoint))
    without_evaluation = SimpleNamespace(evaluation=lambda: None)
    monkeypatch.setattr("oddsmill.train.trainer.prepare", lambda config: done.append("prepared") or without_evaluation)

    def trained(**settings):
        trainer = ORPOTrainer(arguments(tmp_path, do_last_save=False, **settings), model, data)
        trainer._has_trained = True
        return trainer

    for verb in (lambda: trained().evaluate(), lambda: trained().save_pretrained(tmp_path / "out")):
        with pytest.raises(Refused, match="with do_last_save=False no checkpoint of the end is kept"):
            verb()
    assert done == []
    trained().save_pretrained(tmp_path / "out", checkpoint=2)
    # The best evaluation always has a checkpoint.
    best = trained(load_best_model_at_end=True, eval_steps=1)
    best.save_pretrained(tmp_path / "out")
    with pytest.raises(Refused, match="there is no eval split"):
        best.evaluate()
    assert done == [2, None, "prepared"]


def test_before_any_checkpoint_the_weights_are_those_of_step_0(prepared, tmp_path):
    data, model = prepared
    files = RunFiles(tmp_path / "run")
    run = SimpleNamespace(identity={}, files=files, initial_weights=lambda: ("of step 0", "frozen"))
    trainer = ORPOTrainer(arguments(tmp_path), model, data)
    assert trainer._weights(run) == ("of step 0", "frozen")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert trainer._weights(run) == ("of step 0", "frozen")


def test_processes_are_joined_before_it_is_asked_how_many_there_are(tmp_path, monkeypatch):
    joined = []
    distributed = DistributedConfig(coordinator_address="localhost:1", num_processes=2, process_id=0)
    monkeypatch.setattr("oddsmill.train.trainer.join_processes", joined.append)
    monkeypatch.setattr(
        "oddsmill.train.trainer.num_processes", lambda: 2 if joined == [distributed] else pytest.fail("asked too early")
    )
    with pytest.raises(Refused, match="train_dataset: one process preprocesses for all"):
        ORPOTrainer(arguments(tmp_path, distributed=distributed), "model", [{}])


def test_every_group_of_settings_can_be_imported_from_train():
    groups = {kind for hint in get_type_hints(TrainConfig).values() for kind in (hint, *get_args(hint))}
    names = {kind.__name__ for kind in groups if is_dataclass(kind)}
    assert {"DistributedConfig", "LoraConfig", "MeshConfig", "ModelConfig"} <= names
    assert names <= set(oddsmill.__all__) and all(getattr(oddsmill, name).__name__ == name for name in oddsmill.__all__)


def test_the_tokenizer_is_the_models_own_or_the_one_given():
    model = ModelConfig(path="org/model", revision="v1")
    assert tokenizer_settings(None, model) == {"tokenizer": "org/model", "tokenizer_revision": "v1"}
    assert tokenizer_settings("folder", model) == {"tokenizer": "folder"}
    loaded = SimpleNamespace(name_or_path="org/other", chat_template="{{ messages }}")
    assert tokenizer_settings(loaded, model) == {"tokenizer": "org/other", "chat_template": "{{ messages }}"}
    with pytest.raises(Refused, match="processing_class: give the tokenizer's folder"):
        tokenizer_settings(None, ModelConfig(config="config.json"))


class Loaded:
    """A tokenizer of transformers, as far as it is looked at."""

    bos_token_id, eos_token_id = None, 1

    def __len__(self):
        return 48


def test_a_tokenizer_that_was_changed_in_memory_is_refused():
    of_rows = SimpleNamespace(bos_id=None, eos_id=1, vocab_size=48)
    check_processing_class(Loaded(), of_rows, "train_dataset")
    for changed in ({"bos_id": 3}, {"eos_id": 2}, {"vocab_size": 47}):
        with pytest.raises(Refused, match="changed in memory is lost"):
            check_processing_class(Loaded(), SimpleNamespace(**{**vars(of_rows), **changed}), "train_dataset")


TUTORIAL = """
from datasets import load_dataset

from oddsmill import ORPOConfig, ORPOTrainer

rows = load_dataset("json", data_files="pairs.jsonl", split="train[:80]")
eval_rows = load_dataset("json", data_files="pairs.jsonl", split="train[-20:]")
config = ORPOConfig(
    run_dir="runs/orpo_example",
    beta=0.1,
    max_length=64,
    max_prompt_length=32,
    max_completion_length=32,
    total_batch_size=4,
    gradient_accumulation_steps=1,
    learning_rate=1e-3,
    learning_rate_end=5e-4,
    num_train_epochs=2,
    optim="adamw",
    preprocessing={"row_length": 128},
)
trainer = ORPOTrainer(
    arguments=config,
    model="model",
    train_dataset=rows,
    eval_dataset=eval_rows,
    processing_class="model",
)
before = trainer.evaluate()
trainer.train()
after = trainer.evaluate()
assert after["eval/loss"] < before["eval/loss"], (before, after)
trainer.save_pretrained("trained")
"""


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path, capfd):
    """EasyDeL's tutorial, re-written: rows of text, a model folder, an eval dataset, a decaying learning rate."""

    def first():
        return ORPOTrainer(
            arguments(tmp_path, max_steps=1, max_length=64, max_prompt_length=32),
            ModelConfig(config=str(TINY_RECIPE / "config.json")),
            train_dataset=TINY_RECIPE / "pairs.jsonl",
            processing_class=TINY_RECIPE / "tokenizer",
        )

    first().train()
    assert "nothing changed" not in capfd.readouterr().out
    first().save_pretrained(tmp_path / "model")  # the same rows and settings find what is there
    assert "nothing changed" in capfd.readouterr().out
    shutil.copy(TINY_RECIPE / "pairs.jsonl", tmp_path)
    (tmp_path / "tutorial.py").write_text(TUTORIAL)
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    finished = subprocess.run(
        [sys.executable, "tutorial.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    logged = [json.loads(line) for line in (tmp_path / "runs/orpo_example/metrics.jsonl").read_text().splitlines()]
    rates = [line["learning_rate"] for line in logged if "learning_rate" in line]
    assert rates[0] == 1e-3 and 5e-4 < rates[-1] < 6e-4
    assert (tmp_path / "trained" / "model.safetensors").is_file()


SCRIPT = """
print("the script begins")
from oddsmill import ORPOConfig, ORPOTrainer
from oddsmill.train.config.model import ModelConfig

names = ["cat", "dog", "owl"] * 20
rows = [{"prompt": f"Q{n}: {name}?", "chosen": f" a {name}", "rejected": f" no {name}"} for n, name in enumerate(names)]
settings = {"row_length": 128, "dataset_num_proc": 2, "tokenizer_engine": "fastokens"}
ORPOTrainer(
    ORPOConfig(run_dir="run", max_length=64, learning_rate=1e-3, max_steps=1, preprocessing=settings),
    ModelConfig(config="recipe/config.json"),
    train_dataset=rows,
    processing_class="recipe/tokenizer",
)
"""


def test_rows_of_text_go_the_way_of_the_command_with_its_engine_and_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The script has no __main__ guard: no process that preprocesses runs it again."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe").symlink_to(TINY_RECIPE)
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    finished = subprocess.run([sys.executable, "script.py"], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("the script begins") == 1 and "\nengine     fastokens\n" in finished.stdout
    settings = json.loads(Path("run/data/train/run.json").read_text())["settings"]
    assert (settings["dataset_num_proc"], settings["tokenizer_engine"]) == (2, "fastokens")
    command = ["pipeline", "run", "--source.path=run/data/train.jsonl", "--tokenizer=recipe/tokenizer"]
    assert main([*command, "--output=command", "--max_length=64", "--row_length=128"]) == 0
    assert read_manifest("run/data/train").sha256 == read_manifest("command").sha256
