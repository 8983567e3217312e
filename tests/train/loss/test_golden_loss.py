"""Loss, metrics and gradients of TRL on real batches, through our weights loader, layout and fused head."""

import json
from functools import cache

import jax
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from oddsmill.schemas.record import Pair, make_row
from oddsmill.train.config.devices import MeshConfig
from oddsmill.train.loss.pairs import metrics
from oddsmill.train.model.decoder import Decoder
from oddsmill.train.model.hf_config import parse_config, read_config
from oddsmill.train.model.names import hf_names
from oddsmill.train.parallel.sharding import make_mesh, param_shardings
from oddsmill.train.step.evaluation import Evaluation
from oddsmill.train.weights.huggingface import load_params
from tests.datasets import write_dataset
from tests.train.decoders import batch_of, objective_of

MODELS = ["llama-tiny-bos", "qwen2-tiny-nobos"]
CASES = [
    ("batch", "beta0.1"),
    ("batch", "beta0.25"),
    ("batch_one", "one_beta0.1"),
    ("batch_identical", "identical_beta0.1"),
]
# Per-pair arrays of TRL -> columns of pair_values, with the factor between them
PER_PAIR = {
    "chosen_logps": ("chosen_logp", lambda beta: 1),
    "rejected_logps": ("rejected_logp", lambda beta: 1),
    "chosen_rewards": ("chosen_logp", lambda beta: beta),
    "rejected_rewards": ("rejected_logp", lambda beta: beta),
    "log_odds": ("log_odds_ratio", lambda beta: 1),
    "or_losses": ("odds_ratio_loss", lambda beta: -beta),
}


def golden_pairs(batch) -> list[Pair]:
    """The pairs of a TRL collator batch: prompt = unlabelled tokens, answer = labelled ones."""
    pairs = []
    for index in range(len(batch["chosen_input_ids"])):
        sides = {}
        for side in ("chosen", "rejected"):
            real = batch[f"{side}_attention_mask"][index] == 1
            ids, labels = batch[f"{side}_input_ids"][index][real], batch[f"{side}_labels"][index][real]
            sides[side] = ids[labels != -100].tolist()
            sides.setdefault("prompt", ids[labels == -100].tolist())
            assert sides["prompt"] == ids[labels == -100].tolist()
        pairs.append(Pair(**sides, id=index + 1))
    return pairs


@cache
def load_golden(folder):
    config, _ = parse_config(read_config(folder), path=str(folder))
    definition, weights = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    shapes = nnx.to_pure_dict(weights)
    shardings = param_shardings(shapes, make_mesh(MeshConfig()))
    return config, definition, load_params(folder, shapes, shardings, num_layers=config.num_hidden_layers)


def prepared(folder, pairs, beta):
    """(config, weights, batch with one pair a row, objective) of a golden model."""
    config, _, params = load_golden(folder)
    batch = batch_of([[pair] for pair in pairs], max(map(len, pairs)), config.vocab_size)
    return config, params, batch, golden_objective(folder, beta)


@cache
def golden_objective(folder, beta):
    return objective_of(load_golden(folder)[1], beta=beta, nll_scope="full", max_pairs=1)


@cache
def value_and_grad_of(folder, beta):
    """Compiled once for each shape: cases differ by weights and by what they compare."""
    return jax.jit(jax.value_and_grad(golden_objective(folder, beta).loss, has_aux=True))


def loss_of(folder, batch_name, beta, scale=None):
    """(metrics, gradients) of a golden batch."""
    pairs = golden_pairs(np.load(folder / f"{batch_name}.npz"))
    config, params, batch, objective = prepared(folder, pairs, beta)
    if scale is not None:
        params = {**params, "lm_head": {"weight": params["lm_head"]["weight"] * scale}}
    totals = objective.totals(batch)
    (_, sums), gradients = value_and_grad_of(folder, beta)(params, batch, totals)
    return config, jax.device_get(metrics(sums, totals, objective.preference)), gradients


@pytest.mark.parametrize(("batch_name", "tag"), CASES)
@pytest.mark.parametrize("model", MODELS)
def test_loss_and_metrics_equal_trl(shared, model, batch_name, tag):
    folder = shared / "golden" / "loss" / model
    golden = json.loads((folder / f"{tag}.json").read_text())
    _, found, _ = loss_of(folder, batch_name, golden["beta"])
    expected = {name: value for name, value in golden["metrics"].items() if not name.startswith("logits/")}
    expected["loss"] = golden["loss"]
    assert len(expected) == 10
    if batch_name == "batch_identical":
        # A tie that rounding decides: the two sides' sums are not at the same place in the row. The pipeline
        # drops such pairs (identical_answers).
        assert expected.pop("rewards/accuracies") == 0
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=2e-5, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(("batch_name", "tag"), [*CASES, ("batch_emptycompletion", "emptycompletion_beta0.1")])
@pytest.mark.parametrize("model", MODELS)
def test_every_pair_equals_trl(shared, model, batch_name, tag):
    """Where TRL's own cut leaves a side no answer its values are NaN: ours has no such pair, the others are equal."""
    folder = shared / "golden" / "loss" / model
    beta = json.loads((folder / f"{tag}.json").read_text())["beta"]
    pairs = golden_pairs(np.load(folder / f"{batch_name}.npz"))
    whole = np.array([len(pair.chosen) > 0 and len(pair.rejected) > 0 for pair in pairs])
    assert whole.all() == (batch_name != "batch_emptycompletion")
    _, params, batch, objective = prepared(
        folder, [pair for pair, kept in zip(pairs, whole, strict=True) if kept], beta
    )
    found = jax.device_get(jax.jit(objective.pair_values)(params, batch))
    arrays = np.load(folder / f"{tag}.npz")
    assert set(PER_PAIR) == set(arrays) - {"nll_loss"}
    for theirs, (ours, factor) in PER_PAIR.items():
        assert np.isnan(arrays[theirs][~whole]).all()
        values = factor(beta) * found[ours][:, 0]
        np.testing.assert_allclose(values, arrays[theirs][whole], atol=2e-5, rtol=1e-5, err_msg=theirs)
    if whole.all():
        nll = found["nll"].sum() / found["nll_tokens"].sum()
        np.testing.assert_allclose(nll, arrays["nll_loss"], atol=2e-5, rtol=1e-5)


def test_an_answer_without_a_token_cannot_be_written(shared):
    """What makes TRL's loss and every gradient NaN."""
    folder = shared / "golden" / "loss" / MODELS[0]
    golden = json.loads((folder / "emptycompletion_beta0.1.json").read_text())
    assert np.isnan(golden["loss"]) and len(golden["nan_grad_params"]) == len(load_file(folder / "model.safetensors"))
    empty = [pair for pair in golden_pairs(np.load(folder / "batch_emptycompletion.npz")) if not len(pair.chosen)]
    assert len(empty) == 1
    with pytest.raises(ValueError, match="chosen"):
        make_row(empty, row_length=256, pad_id=0, vocab_size=400)


@pytest.mark.parametrize("model", MODELS)
def test_evaluation_equals_trl(shared, tmp_path, model):
    """Through stored rows and the loader, in batches that leave the last one part empty; names but for `eval/`."""
    folder = shared / "golden" / "loss" / model
    golden = json.loads((folder / "eval_beta0.25.json").read_text())
    pairs = golden_pairs(np.load(folder / "batch.npz"))
    config, params, _, objective = prepared(folder, pairs, golden["beta"])
    rows = [[pair] for pair in pairs]
    length = max(map(len, pairs))
    manifest = write_dataset(
        tmp_path / "rows", {"train": rows, "eval": rows}, row_length=length, vocab_size=config.vocab_size
    )
    found = Evaluation(objective, data=str(tmp_path / "rows"), manifest=manifest, split="eval", batch_size=4)(params)
    expected = {name: value for name, value in golden["metrics"].items() if not name.startswith("eval_logits/")}
    assert len(expected) == 9
    for name, value in {**expected, "eval_loss": golden["loss"]}.items():
        np.testing.assert_allclose(found[name.replace("eval_", "eval/")], value, atol=2e-5, rtol=1e-5, err_msg=name)


def assert_gradients_equal(gradients, expected, config):
    """Each of TRL's gradients, to 1e-4 of its largest element."""
    compared = 0
    for path, leaf in flatten_dict(gradients).items():
        names = hf_names(path, config.num_hidden_layers)
        for name, gradient in zip(names, leaf if path[0] == "layers" else [leaf], strict=True):
            tolerance = 1e-4 * np.abs(expected[name]).max()
            np.testing.assert_allclose(gradient, expected[name], atol=tolerance, rtol=0, err_msg=name)
            compared += 1
    assert compared == len(expected)


@pytest.mark.parametrize("tag", ["beta0.1", "beta0.25"])
@pytest.mark.parametrize("model", MODELS)
def test_every_gradient_equals_trl(shared, model, tag):
    folder = shared / "golden" / "loss" / model
    golden = json.loads((folder / f"{tag}.json").read_text())
    config, _, gradients = loss_of(folder, "batch", golden["beta"])
    assert_gradients_equal(gradients, load_file(folder / f"{tag}.grads.safetensors"), config)
    norm = np.sqrt(
        sum(float((leaf.astype(np.float64) ** 2).sum()) for leaf in jax.tree.leaves(jax.device_get(gradients)))
    )
    np.testing.assert_allclose(norm, golden["grad_norm_fp64_accum"], rtol=1e-4)


@pytest.mark.parametrize("batch_name", ["normal", "swapped", "identical"])
@pytest.mark.parametrize("scale", ["1", "1.3", "1.6", "2", "100"])
def test_confident_models_have_a_finite_loss_and_gradient(shared, batch_name, scale):
    """An overfitted model whose answers have probability 1: deviates on purpose where TRL has inf or NaN.

    Where TRL's mean log-probabilities stay below the clamp, loss and log-probabilities still equal TRL's.
    """
    folder = shared / "golden" / "loss" / "nasty"
    golden = json.loads((folder / f"{batch_name}_scale{scale}.json").read_text())
    arrays = np.load(folder / f"{batch_name}_scale{scale}.npz")
    _, found, gradients = loss_of(
        folder, {"normal": "batch"}.get(batch_name, f"batch_{batch_name}"), golden["beta"], float(scale)
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(gradients)))
    assert all(np.isfinite(value) for value in found.values())
    np.testing.assert_allclose(found["nll_loss"], golden["metrics"]["nll_loss"], atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(found["logps/chosen"], arrays["chosen_logps"].mean(), atol=2e-5, rtol=1e-4)
    highest = max(arrays["chosen_logps"].max(), arrays["rejected_logps"].max())
    if highest < -1e-5:
        np.testing.assert_allclose(found["loss"], golden["loss"], atol=2e-5, rtol=1e-4)
    if highest >= 0:
        assert found["clamped_pairs"] > 0


def test_the_gradients_of_an_overfitted_model_equal_trl(shared):
    folder = shared / "golden" / "loss" / "nasty"
    config, _, gradients = loss_of(folder, "batch", 0.1, 1.0)
    assert_gradients_equal(gradients, load_file(folder / "normal_scale1.grads.safetensors"), config)


def test_where_every_gradient_of_trl_has_nan_ours_are_those_of_the_clamped_loss(shared):
    """Chosen answers of probability 1: TRL's next step destroys the model, ours goes on."""
    folder = shared / "golden" / "loss" / "nasty"
    expected = load_file(folder / "normal_scale2.grads.safetensors")
    assert all(np.isnan(gradient).any() for gradient in expected.values())
    _, found, gradients = loss_of(folder, "batch", 0.1, 2.0)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(jax.device_get(gradients)))
    assert found["clamped_pairs"] > 0 and 0 < largest < 1e3
