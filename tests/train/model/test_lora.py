"""LoRA: adapters alone are trained, the base stays to the bit, and what comes out is base + adapters, in every form."""

import dataclasses
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.settings import settings_as_yaml
from oddsmill.train import loop
from oddsmill.train.checkpoint.checkpoints import Checkpoints
from oddsmill.train.config.devices import MeshConfig
from oddsmill.train.config.model import LoraConfig, ModelConfig
from oddsmill.train.config.sampling import SamplingConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.generation.generate import generate
from oddsmill.train.model.decoder import Decoder
from oddsmill.train.model.frozen import join_params, split_params
from oddsmill.train.model.lora import add_adapters, is_adapter, merge_lora
from oddsmill.train.model.names import hf_names
from oddsmill.train.parallel.sharding import make_mesh, param_shardings
from oddsmill.train.prepare import prepare
from oddsmill.train.weights.huggingface import load_params, save_params
from tests.datasets import packed, random_pairs, write_dataset
from tests.train.curves import assert_equal_but_for_rounding, logged
from tests.train.decoders import (
    TINY,
    VOCAB_SIZE,
    batch_of,
    decoder_config,
    largest_difference,
    objective_of,
    split_decoder,
    two_row_batch,
    two_row_loss,
)
from tests.train.fake_devices import fake_devices

ROOT = Path(__file__).parents[3]
ROW_LENGTH = 32
CONFIG = decoder_config()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A dataset and a model folder in float32, as settings."""
    folder = tmp_path_factory.mktemp("inputs")
    rows = packed(random_pairs(np.random.default_rng(0), 90, vocab_size=VOCAB_SIZE), ROW_LENGTH)
    write_dataset(folder / "data", {"train": rows[8:], "eval": rows[:8]}, row_length=ROW_LENGTH, vocab_size=VOCAB_SIZE)
    write_model(folder / "model", jnp.float32)
    return {"data": str(folder / "data"), "model": ModelConfig(path=str(folder / "model"))}


def write_model(folder, dtype, seed=0):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY))
    save_params(split_decoder(CONFIG, dtype, seed)[1], folder, num_layers=CONFIG.num_hidden_layers)


def settings(inputs, run_dir, *, lora=None, **changes):
    given = {**inputs, "run_dir": str(run_dir), "max_steps": 6, "learning_rate": 1e-2, "report_to": []}
    return TrainConfig(**{**given, "lora": LoraConfig(**{"rank": 3, **(lora or {})}), **changes})


def adapted(config=CONFIG, lora=None, dtype=jnp.float32, **options):
    """A decoder with adapters that do something, as (definition, adapters, base)."""
    rngs = nnx.Rngs(0)
    decoder = Decoder(config, rngs=rngs, param_dtype=dtype, compute_dtype=dtype, **options)
    definition, weights = nnx.split(add_adapters(decoder, lora or LoraConfig(rank=3), param_dtype=dtype, rngs=rngs))
    flat = flatten_dict(nnx.to_pure_dict(weights))
    for index, path in enumerate(sorted(flat)):
        if path[-1] == "lora_B":
            flat[path] = 0.1 * jax.random.normal(jax.random.key(index), flat[path].shape, dtype)
    params, base = split_params(unflatten_dict(flat), {path for path in flat if not is_adapter(path)})
    return definition, params, base


def logits_of(definition, weights, config=CONFIG):
    tokens = jnp.asarray(np.random.default_rng(1).integers(0, config.vocab_size, (2, 12)))
    position = jnp.broadcast_to(jnp.arange(12), tokens.shape)
    decoder = nnx.merge(definition, weights)
    return decoder.logits(decoder(tokens, position, jnp.full_like(position, 12)))


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_trained_parameters_are_what_the_formula_says(family):
    """rank * (in + out) a linear layer, in every layer of the decoder."""
    config = decoder_config(model_type=family)
    params = jax.eval_shape(lambda: adapted(config, LoraConfig(rank=5))[1])
    D, inner, heads, key_value = 16, 24, 4 * 4, 2 * 4
    layer = {
        "llama": 2 * (D + heads) + 2 * (D + key_value) + 2 * (D + inner) + (inner + D),
        "phi3": (D + heads + 2 * key_value) + (heads + D) + (D + 2 * inner) + (inner + D),
    }[family]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 5 * 2 * layer


def test_adapters_start_as_pefts_do_and_change_nothing():
    lora = LoraConfig(rank=3)
    decoder = Decoder(CONFIG, rngs=nnx.Rngs(0))
    plain = logits_of(*split_decoder(CONFIG))
    definition, weights = nnx.split(add_adapters(decoder, lora, param_dtype=jnp.float32, rngs=nnx.Rngs(1)))
    weights = nnx.to_pure_dict(weights)
    np.testing.assert_array_equal(logits_of(definition, weights), plain)
    adapter = weights["layers"]["mlp"]["down_proj"]["adapter"]
    assert not adapter["lora_B"].any()
    # kaiming_uniform(a=sqrt(5)) over 24 inputs: the bound is 1 / sqrt(24), the standard deviation that over sqrt(3).
    assert 0.9 * 24**-0.5 < np.abs(adapter["lora_A"]).max() <= 24**-0.5
    assert np.std(adapter["lora_A"]) == pytest.approx((3 * 24) ** -0.5, rel=0.1)


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (None, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        (["q_proj", "v_proj"], {"q_proj", "v_proj"}),
        (["mlp.up_proj"], {"up_proj"}),
        ([r".*self_attn\.[qo]_proj"], {"q_proj", "o_proj"}),
        (["up_proj", r"model\.layers\.[01]\.self_attn\.k.*"], {"up_proj", "k_proj"}),
    ],
)
def test_targets_are_chosen_by_the_end_of_their_name_or_by_a_pattern(targets, names):
    params = jax.eval_shape(lambda: adapted(lora=LoraConfig(rank=1, target_modules=targets))[1])
    assert {path[-3] for path in flatten_dict(params)} == names


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["proj"], "'proj' matches nothing; known are model.layers.*.mlp.down_proj, "),
        (["q_proj", "lm_head"], "'lm_head' matches nothing"),
        (["qkv_proj"], "'qkv_proj' matches nothing"),
        ([r".*\.1\.mlp\.up_proj"], "matches model.layers.1.mlp.up_proj but not model.layers.*.mlp.up_proj of every"),
    ],
)
def test_targets_that_cannot_be_are_refused(targets, message):
    with pytest.raises(Refused, match=r"lora\.target_modules") as refusal:
        adapted(lora=LoraConfig(target_modules=targets))
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "target", "known"),
    [
        ({"model_type": "phi3"}, "q_proj", "self_attn.qkv_proj"),
        ({"model_type": "gemma", "tie_word_embeddings": True}, "lm_head", "self_attn.q_proj"),
        ({"model_type": "gemma2"}, "embed_tokens", "self_attn.q_proj"),
    ],
)
def test_fused_and_tied_weights_are_refused_by_the_names_that_they_do_not_have(changes, target, known):
    lora = LoraConfig(target_modules=[target])
    with pytest.raises(Refused, match=f"'{target}' matches nothing; known are .*{known}"):
        jax.eval_shape(lambda: adapted(decoder_config(**changes), lora)[1])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_the_one_row_layout_equals_the_two_row_form_with_adapters(family):
    """Loss and the gradient of every adapter, in float64."""
    with jax.enable_x64(True):
        config = decoder_config(model_type=family)
        definition, params, base = adapted(config, LoraConfig(rank=2, use_rslora=True), jnp.float64)
        pairs = random_pairs(np.random.default_rng(3), 5, vocab_size=VOCAB_SIZE)
        batch = batch_of(packed(pairs, 40), 40)
        objective = objective_of(definition, beta=0.3, nll_scope="full", max_pairs=5)
        one_row = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
        (loss, _), gradients = one_row(params, batch, objective.totals(batch), base)

        @jax.jit
        @jax.value_and_grad
        def two_row(params, form):
            weights = join_params(params, base)
            return two_row_loss(definition, weights, form, beta=0.3, nll_scope="full")[0]

        reference, reference_gradients = two_row(params, two_row_batch(pairs, 12))
        assert abs(float(loss - reference)) < 1e-10
        assert largest_difference(gradients, reference_gradients) < 1e-10
        assert all(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(gradients))


def dropped_loss(**options):
    """A function of step and batch: loss and gradients of adapters with dropout."""
    lora = LoraConfig(rank=3, dropout=0.5, target_modules=["q_proj", "down_proj"])
    definition, params, base = adapted(lora=lora, **options)
    objective = objective_of(definition, beta=0.1, nll_scope="full", max_pairs=8)
    objective = dataclasses.replace(objective, dropout_seed=0)
    gradient = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))

    def at(step, batch):
        if step is None:
            return {"loss": jax.jit(objective.loss)(params, batch, objective.totals(batch), base)[0]}
        (loss, _), gradients = gradient(params, batch, objective.totals(batch), base, step)
        return {"loss": loss, **gradients}

    return at


@pytest.fixture(scope="module")
def batch():
    return batch_of(packed(random_pairs(np.random.default_rng(3), 8, vocab_size=VOCAB_SIZE), ROW_LENGTH), ROW_LENGTH)


def test_dropout_is_of_the_step_and_the_row_and_of_nothing_else(batch):
    """It changes the loss; with the rows in another order it is the same."""
    at = dropped_loss()
    dropped = at(3, batch)
    assert at(3, batch)["loss"] == dropped["loss"]
    for other in (at(None, batch), at(4, batch)):
        assert abs(float(other["loss"] - dropped["loss"])) > 1e-3
    assert largest_difference(at(3, {name: array[::-1] for name, array in batch.items()}), dropped) < 1e-5


@pytest.mark.slow
def test_dropout_is_the_same_where_a_layer_is_computed_again(batch):
    assert largest_difference(dropped_loss(remat=True)(3, batch), dropped_loss()(3, batch)) < 1e-5


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    """A run of 20 steps with dropout, which leaves both forms: its folder, and the frozen weights at its end."""
    kept = {}

    def keep(params, frozen, lora, *, dtype):
        kept.update({path: np.array(leaf) for path, leaf in flatten_dict(frozen).items()})
        return merge_lora(params, frozen, lora, dtype=dtype)

    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("oddsmill.train.run_folder.merge_lora", keep)
        loop.train(settings(inputs, folder, **RUN))
    return folder, kept


RUN = {
    "lora": {
        "alpha": 32,
        "dropout": 0.2,
        "export": "both",
        "use_rslora": True,
        "target_modules": ["q_proj", r".*\.down_proj"],
    },
    "max_steps": 20,
    "save_steps": 8,
    "eval_steps": 10,
}


def test_the_base_stays_to_the_bit(inputs, finished):
    folder, kept = finished
    stored = load_file(Path(inputs["model"].path) / "model.safetensors")
    found = {
        name: leaf if path[0] != "layers" else leaf[layer]
        for path, leaf in kept.items()
        for layer, name in enumerate(hf_names(path, CONFIG.num_hidden_layers))
    }
    assert found.keys() == stored.keys()
    for name, tensor in stored.items():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)
    exported = load_file(folder / "export" / "model.safetensors")
    assert exported.keys() == stored.keys()
    moved = {name for name in stored if not np.array_equal(exported[name], stored[name])}
    assert moved == {name for name in stored if "q_proj" in name or "down_proj" in name}


def test_frozen_weights_are_kept_in_the_dtype_they_are_stored_in(inputs, tmp_path, monkeypatch):
    write_model(tmp_path / "model", jnp.bfloat16)
    narrow = {**inputs, "model": ModelConfig(path=str(tmp_path / "model"))}
    with monkeypatch.context() as patch:  # the dtypes that it is asked to load alone
        patch.setattr("oddsmill.train.step.program.load_params", lambda folder, shapes, *_, **__: shapes)
        wide = prepare(settings(narrow, "r", frozen_dtype="float32")).initial_weights()[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(wide)} == {jnp.dtype(jnp.float32)}
    params, frozen = prepare(settings(narrow, "r")).initial_weights()
    assert {leaf.dtype for leaf in jax.tree.leaves(frozen)} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}


def test_the_merged_model_and_the_adapter_folder_are_the_model_that_was_trained(inputs, finished):
    """Logits of base + adapters as the adapter folder has them, and of the merged export, in float32."""
    folder, _ = finished
    stored = load_file(folder / "adapter" / "adapter_model.safetensors")
    lora = LoraConfig(rank=3, **RUN["lora"])
    definition, params, _ = adapted(lora=lora)
    read = {
        path: jnp.stack(
            [
                stored[f"base_model.model.model.layers.{layer}.{'.'.join(path[1:-2])}.{path[-1]}.weight"]
                for layer in (0, 1)
            ]
        )
        for path in flatten_dict(params)
    }
    assert len(stored) == 2 * len(read)
    assert all(np.abs(leaf).max() > 1e-3 for leaf in read.values())
    base = load_plain(inputs["model"].path)
    trained = logits_of(definition, join_params(unflatten_dict(read), base))
    merged = logits_of(split_decoder(CONFIG)[0], load_plain(folder / "export"))
    assert np.abs(trained - merged).max() < 1e-5
    assert np.abs(trained - logits_of(split_decoder(CONFIG)[0], base)).max() > 0.1
    written = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert written["target_modules"] == ["down_proj", "q_proj"]
    assert (written["r"], written["lora_alpha"], written["use_rslora"]) == (3, 32, True)
    assert written["base_model_name_or_path"] == inputs["model"].path


def load_plain(folder):
    shapes = jax.eval_shape(lambda: split_decoder(CONFIG)[1])
    shardings = param_shardings(shapes, make_mesh(MeshConfig()))
    return load_params(folder, shapes, shardings, num_layers=CONFIG.num_hidden_layers)


def test_generation_takes_the_adapters():
    definition, params, base = adapted()
    ask = partial(
        generate,
        config=CONFIG,
        prompts=[[3, 4, 5], [7]],
        sampling=SamplingConfig(max_new_tokens=8),
        stop_ids=[],
    )
    plain = split_decoder(CONFIG)[0]
    without = list(ask(plain, base))
    answers = list(ask(definition, join_params(params, base)))
    assert answers != without
    assert answers == list(ask(plain, merge_lora(params, base, LoraConfig(rank=3))))


class Stop(Exception):
    pass


def stop_after_save(monkeypatch, at):
    """The run ends where it has saved step `at`, as if it were killed there."""
    save = Checkpoints.save

    def save_then_stop(self, step, *arguments, **named):
        save(self, step, *arguments, **named)
        if step == at:
            self.wait()
            raise Stop

    monkeypatch.setattr(Checkpoints, "save", save_then_stop)


def test_a_stopped_run_goes_on_bit_for_bit_and_beside_the_same_base_alone(inputs, finished, tmp_path, monkeypatch):
    whole, stopped = finished[0], settings(inputs, tmp_path / "run", **RUN)
    with monkeypatch.context() as patch:
        stop_after_save(patch, 8)
        with pytest.raises(Stop):
            loop.train(stopped)
    write_model(tmp_path / "other", jnp.float32, seed=1)
    with pytest.raises(Refused, match="beside other frozen weights than the model has now"):
        loop.train(dataclasses.replace(stopped, model=ModelConfig(path=str(tmp_path / "other"))))
    with pytest.raises(Refused, match=r"lora: \{.*'rank': 3.* -> \{.*'rank': 4"):
        loop.train(dataclasses.replace(stopped, lora=dataclasses.replace(stopped.lora, rank=4)))
    loop.train(stopped)
    assert [line["step"] for line in logged(whole) if "loss" in line] == list(range(1, 21))
    assert logged(tmp_path / "run") == logged(whole)
    for file in ("export/model.safetensors", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (whole / file).read_bytes()


def test_state_and_checkpoint_hold_adapters_alone(inputs, tmp_path):
    run = prepare(settings(inputs, tmp_path / "run"))
    count = sum(leaf.size for leaf in jax.tree.leaves(run.program.abstract_state["params"]))
    moments = [leaf for leaf in jax.tree.leaves(run.program.abstract_state["opt_state"]) if leaf.ndim]
    assert sum(leaf.size for leaf in moments) == 2 * count
    assert all("adapter" in path for path in flatten_dict(run.program.abstract_state["params"]))


@pytest.mark.slow
def test_devices_and_micro_batches_do_not_change_a_run_with_dropout(inputs, finished, tmp_path):
    """One device, eight fake ones in a 2 x 4 mesh, and accumulation give the same curve but for rounding."""
    parts = settings(inputs, tmp_path / "parts", **RUN, total_batch_size=2, gradient_accumulation_steps=4)
    loop.train(parts)
    mesh = settings(inputs, tmp_path / "mesh", **RUN, mesh=MeshConfig(data=2, fsdp=4))
    (tmp_path / "mesh.yaml").write_text(settings_as_yaml(mesh))
    done = subprocess.run(
        [sys.executable, "-m", "oddsmill.train", "run", "--config", str(tmp_path / "mesh.yaml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=fake_devices(8),
    )
    assert done.returncode == 0, done.stderr
    assert "on 8 device(s)" in done.stdout and "LoRA of rank 3 on down_proj, q_proj" in done.stdout
    assert "adapter    " in done.stdout
    for name in ("mesh", "parts"):
        assert_equal_but_for_rounding(logged(tmp_path / name), logged(finished[0]))
    for file in ("adapter/adapter_model.safetensors", "export/model.safetensors"):
        expected = load_file(finished[0] / file)
        for name in ("mesh", "parts"):
            for tensor, value in load_file(tmp_path / name / file).items():
                np.testing.assert_allclose(value, expected[tensor], atol=5e-3, rtol=0, err_msg=f"{name} {tensor}")
