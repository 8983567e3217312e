"""No setting that is read and then has no effect: whole runs of three steps that differ in one setting.

Those that may change between two starts of a run are shown to have no effect on what it learns, too.
"""

import dataclasses
import hashlib
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oddsmill.train.loop
import oddsmill.train.step.evaluation
from oddsmill.schemas.errors import RunFailed
from oddsmill.schemas.settings import facts_of, setting_types
from oddsmill.train.config.model import LoraConfig, ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.loader import DEVICE_ARRAYS
from oddsmill.train.parallel.sharding import put_on_mesh
from oddsmill.train.prepare import prepare
from oddsmill.train.weights.huggingface import save_params
from tests.datasets import adopt_tokenizer, packed, random_pairs, write_dataset
from tests.train.curves import logged
from tests.train.decoders import OVERFLOWING, TINY, VOCAB_SIZE, decoder_config, split_decoder

ROW_LENGTH = 32

BASE = {
    "data": "train_only",
    "model": ModelConfig(config="config.json"),
    "max_steps": 3,
    "total_batch_size": 4,
    "learning_rate": 1e-2,
    "report_to": [],
    "save_steps": None,
    "gradient_checkpointing": False,
}
EVALUATED = {"data": "data"}
EVERY_STEP = EVALUATED | {"eval_steps": 1}
SAVES = {"save_steps": 1}
ANSWERS = EVALUATED | {"generation_num_prompts": 2, "generation_max_new_tokens": 4}
DRAWN = ANSWERS | {"generation_do_sample": True, "generation_temperature": 2.0, "generation_max_new_tokens": 8}
LORA = {"lora": LoraConfig(rank=2), "model": ModelConfig(path="model"), "learning_rate": 1e-2}
FROZEN = {"model": ModelConfig(path="model"), "learning_rate": 1e-2, "frozen_parameters": ["mlp"]}
WORSE = EVERY_STEP | {"learning_rate": 3.0, "max_steps": 4}  # every step makes the model worse
TWO_OF_THREE = {"gradient_accumulation_steps": 2, "total_batch_size": 3}

# setting -> (its value, what both runs share beside BASE, where it shows: a key of `traces`)
EFFECTS = {
    "data": ("other_data", EVALUATED, "losses"),
    "model.path": ("other_model", {"model": ModelConfig(path="model")}, "losses"),
    "model.config": ("other.json", {}, "losses"),
    "lora.rank": (3, LORA, "losses"),
    "lora.alpha": (3.0, LORA, "losses"),
    "lora.dropout": (0.5, LORA, "losses"),
    "lora.target_modules": (["q_proj"], LORA, "losses"),
    "lora.use_rslora": (True, LORA, "losses"),
    "lora.export": ("both", LORA, "files"),
    "frozen_parameters": (["self_attn"], FROZEN, "losses"),
    "frozen_dtype": ("bfloat16", FROZEN, "losses"),
    "loss": ("simpo", {}, "losses"),
    "beta": (0.5, {}, "losses"),
    "nll_scope": ("response", {}, "losses"),
    "simpo_gamma": (1.0, {"loss": "simpo"}, "losses"),
    "cpo_alpha": (0.3, {"loss": "cpo"}, "losses"),
    "label_smoothing": (0.1, {"loss": "simpo"}, "losses"),
    "learning_rate": (2e-2, {}, "losses"),
    "learning_rate_end": (5e-3, {}, "losses"),
    "lr_scheduler_type": ("constant", {}, "losses"),
    "warmup_steps": (2, {}, "losses"),
    "warmup_ratio": (0.5, {}, "losses"),
    "optim": ("lion", {}, "losses"),
    "weight_decay": (0.5, {}, "losses"),
    "adam_beta1": (0.5, {}, "losses"),
    "adam_beta2": (0.5, {}, "losses"),
    "adam_epsilon": (1e-2, {}, "losses"),
    "max_grad_norm": (1e-3, {"optim": "sgd"}, "losses"),
    "total_batch_size": (2, {}, "losses"),
    "gradient_accumulation_steps": (2, {}, "losses"),
    "compat": ("trl", TWO_OF_THREE, "losses"),
    "num_train_epochs": (1.0, {"max_steps": None, "total_batch_size": 8}, "losses"),
    "max_steps": (2, {}, "losses"),
    "seed": (1, {}, "losses"),
    "shuffle_train_dataset": (False, {}, "losses"),
    "param_dtype": ("bfloat16", {}, "losses"),
    "compute_dtype": ("bfloat16", {}, "losses"),
    "disable_dropout": (False, {"model": ModelConfig(config="dropout.json")}, "losses"),
    "logging_steps": (2, {}, "losses"),
    "eval_data": ("other_data", EVALUATED, "evaluations"),
    "eval_batch_size": (2, EVALUATED, "evaluated"),
    "eval_steps": (2, EVALUATED, "evaluations"),
    "save_steps": (2, {"save_total_limit": 9}, "checkpoints"),
    "save_interval_minutes": (1e-9, {"save_total_limit": 9}, "checkpoints"),
    "save_total_limit": (1, SAVES, "checkpoints"),
    "do_last_save": (False, {}, "checkpoints"),
    "load_best_model_at_end": (True, WORSE, "weights"),
    "metric_for_best_model": ("log_odds_chosen", EVERY_STEP | {"load_best_model_at_end": True}, "weights"),
    "greater_is_better": (True, EVERY_STEP | {"load_best_model_at_end": True}, "weights"),
    "early_stopping_patience": (1, WORSE, "evaluations"),
    "early_stopping_threshold": (1e3, EVERY_STEP | {"early_stopping_patience": 1}, "evaluations"),
    "max_skipped_steps": (3, {"model": ModelConfig(path="poisoned")}, "failure"),
    "profile_steps": ([2, 2], {}, "files"),
    "report_to": (["tensorboard"], {}, "files"),
    "generate_during_eval": (True, EVERY_STEP | ANSWERS, "samples"),
    "generation_num_prompts": (3, ANSWERS, "samples"),
    "generation_max_new_tokens": (2, ANSWERS, "samples"),
    "generation_do_sample": (True, ANSWERS, "samples"),
    "generation_temperature": (0.5, DRAWN, "samples"),
    "generation_top_k": (2, DRAWN, "samples"),
    "generation_top_p": (0.5, DRAWN, "samples"),
    "generation_repetition_penalty": (5.0, ANSWERS, "samples"),
    "generation_seed": (1, DRAWN, "samples"),
}
MAY_CHANGE = {
    prefix + field.name
    for prefix, kind in (("", TrainConfig), ("lora.", LoraConfig))
    for field in dataclasses.fields(kind)
    if facts_of(kind, field.name).may_change
}
TWO_PROCESSES = "parallel/test_processes.py::test_two_processes_run_as_one_does_and_one_goes_on_for_them"
# What three steps on one device do not show -> the test that does.
ELSEWHERE = {
    "model.revision": "weights/test_model_files.py::test_a_cached_model_is_found_by_its_id_and_revision",
    "dataloader_num_workers": "data/test_data_workers.py::test_two_workers_give_the_batches_and_the_positions_of_none",
    "mesh.data": "test_exactness.py::test_micro_batches_and_meshes_do_not_change_a_step",
    "mesh.fsdp": "test_run.py::test_devices_and_micro_batches_do_not_change_the_run",
    "mesh.tensor": "test_run.py::test_devices_and_micro_batches_do_not_change_the_run",
    "attn_mechanism": (
        "attention/test_attention.py::test_every_mechanism_gives_the_same_and_only_vanilla_holds_all_scores"
    ),
    "gradient_checkpointing": "test_settings_have_effects.py::test_what_is_computed_again_is_a_setting",
    "verify_shards": "data/test_verified_shards.py::test_a_shard_that_keeps_its_size_and_time_is_read_again_on_request",
    "distributed.coordinator_address": TWO_PROCESSES,
    "distributed.num_processes": TWO_PROCESSES,
    "distributed.process_id": TWO_PROCESSES,
    "distributed.detect_cluster": "parallel/test_processes.py::test_without_a_cluster_detection_is_refused",
    "distributed.initialization_timeout": "parallel/test_processes.py::test_a_process_that_nobody_joins_ends_in_time",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_tokenizer):
    """Datasets, one without an eval split; trained models, one of them broken; configs of random ones."""
    folder = tmp_path_factory.mktemp("inputs")
    for seed, name in enumerate(("train_only", "data", "other_data")):
        rows = packed(random_pairs(np.random.default_rng(seed), 90, vocab_size=VOCAB_SIZE), ROW_LENGTH)
        splits = {"train": rows[6:]} if name == "train_only" else {"train": rows[6:], "eval": rows[:6]}
        write_dataset(folder / name, splits, row_length=ROW_LENGTH, vocab_size=VOCAB_SIZE)
        make_tokenizer(folder / name / "tokenizer")
        adopt_tokenizer(folder / name)
    for name, changes in (
        ("config", {}),
        ("other", {"intermediate_size": 16}),
        ("dropout", {"attention_dropout": 0.5}),
    ):
        (folder / f"{name}.json").write_text(json.dumps({**TINY, **changes}))
    for seed, name in enumerate(("model", "other_model", "poisoned")):
        weights = split_decoder(decoder_config(), seed=seed)[1]
        if name == "poisoned":
            weights["embed_tokens"]["weight"] = jnp.full_like(
                weights["embed_tokens"]["weight"], np.finfo(np.float32).max
            )
        (folder / name).mkdir()
        save_params(weights, folder / name, num_layers=TINY["num_hidden_layers"])
        (folder / name / "config.json").write_text(json.dumps(OVERFLOWING if name == "poisoned" else TINY))
    return folder


def with_change(given, name, value):
    """Settings with one of them changed; `model.path` is a field of `model`."""
    whole, _, part = name.partition(".")
    return given | {whole: dataclasses.replace(given[whole], **{part: value}) if part else value}


def traces(given, run_dir, monkeypatch):
    """All that a run shows, by kind, without what depends on the time it took."""
    evaluated = []

    def put(arrays, mesh):
        evaluated.append({name: array.shape for name, array in arrays.items()})
        return put_on_mesh(arrays, mesh)

    monkeypatch.setattr(oddsmill.train.step.evaluation, "put_on_mesh", put)
    config = TrainConfig(run_dir=str(run_dir), **given)
    failure = None
    try:
        oddsmill.train.loop.train(config)
    except RunFailed as error:
        failure = str(error)
    lines = logged(run_dir)
    names = {re.sub(r"\d{6,}.*", "", str(path.relative_to(run_dir))) for path in run_dir.rglob("*")}
    weights, samples = run_dir / "export" / "model.safetensors", run_dir / "samples.jsonl"
    return {
        "losses": [line for line in lines if "loss" in line],
        "evaluations": [line for line in lines if "eval/loss" in line],
        "evaluated": evaluated,
        "files": sorted(name for name in names if not name.startswith("checkpoints")),
        "checkpoints": sorted(path.name for path in (run_dir / "checkpoints").iterdir()),
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else None,
        "samples": samples.read_text() if samples.exists() else None,
        "failure": failure,
    }


def num_products(config):
    """Matrix products in a step's loss and gradient, of which a rematerialised one has more."""
    run = prepare(config)
    shape = (config.total_batch_size, run.data.manifest.row_length)
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name in DEVICE_ARRAYS}

    def loss(params, batch):
        return run.program.objective.loss(params, batch, run.program.objective.totals(batch))[0]

    return str(jax.make_jaxpr(jax.grad(loss))(run.program.abstract_state["params"], batch)).count("dot_general")


@pytest.fixture(scope="module")
def traces_of_base():
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("setting", EFFECTS)
def test_every_setting_of_a_run_has_an_effect(folder, traces_of_base, tmp_path, monkeypatch, setting):
    monkeypatch.chdir(folder)
    value, both, kind = EFFECTS[setting]
    given = BASE | both
    if str(both) not in traces_of_base:
        traces_of_base[str(both)] = traces(given, tmp_path / "base", monkeypatch)
    base = traces_of_base[str(both)]
    changed = traces(with_change(given, setting, value), tmp_path / "changed", monkeypatch)
    assert changed[kind] != base[kind]
    if setting in MAY_CHANGE - {"data", "max_skipped_steps"}:
        shorter = min(len(changed["losses"]), len(base["losses"]))
        if setting != "logging_steps":
            assert changed["losses"][:shorter] == base["losses"][:shorter]


def test_what_is_computed_again_is_a_setting(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    products = [
        num_products(TrainConfig(run_dir="run", **BASE | {"gradient_checkpointing": policy}))
        for policy in (True, "dots_with_no_batch_dims_saveable", "dots_saveable", False)
    ]
    assert products[0] > products[1] > products[2] == products[3]


def test_every_setting_of_a_run_is_shown_to_have_an_effect():
    names = {name for name, kind in setting_types(TrainConfig) if kind is not LoraConfig | None} - {"lora", "run_dir"}
    assert set(EFFECTS) | set(ELSEWHERE) == names and not set(EFFECTS) & set(ELSEWHERE)
    for place in ELSEWHERE.values():
        file, test = place.split("::")
        assert f"\ndef {test}(" in (Path(__file__).parent / file).read_text()
