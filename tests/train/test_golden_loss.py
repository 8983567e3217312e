"""Loss, metrics and gradients of TRL on real batches, through our weights loader, layout and fused head."""

import json
from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from schemas.record import Pair
from tests.train.decoders import batch_of, objective_of
from train.hf_config import parse_config, read_config
from train.loss import metrics
from train.model import Decoder
from train.sharding import MeshConfig, make_mesh, param_shardings
from train.weights import hf_names, load_params

MODELS = ["llama-tiny-bos", "qwen2-tiny-nobos"]
CASES = [
    ("batch", "beta0.1"),
    ("batch", "beta0.25"),
    ("batch_one", "one_beta0.1"),
    ("batch_identical", "identical_beta0.1"),
]


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


def load_golden(folder):
    config, _ = parse_config(read_config(folder), path=str(folder))
    definition, weights = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    shapes = nnx.to_pure_dict(weights)
    shardings = param_shardings(shapes, make_mesh(MeshConfig()))
    return config, definition, load_params(folder, shapes, shardings, num_layers=config.num_hidden_layers)


def loss_of(folder, batch_name, beta, scale=None):
    """(metrics, gradients) of a golden batch, one pair a row."""
    config, definition, params = load_golden(folder)
    if scale is not None:
        params["lm_head"]["weight"] *= scale
    pairs = golden_pairs(np.load(folder / f"{batch_name}.npz"))
    batch = batch_of([[pair] for pair in pairs], max(map(len, pairs)), config.vocab_size)
    objective = objective_of(definition, beta=beta, nll_scope="full", max_pairs=1)
    totals = objective.totals(batch)
    value_and_grad = jax.jit(jax.value_and_grad(partial(objective.loss), has_aux=True))
    (_, sums), gradients = value_and_grad(params, batch, totals)
    return config, jax.device_get(metrics(sums, totals, beta=beta)), gradients


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


@pytest.mark.parametrize("tag", ["beta0.1", "beta0.25"])
@pytest.mark.parametrize("model", MODELS)
def test_every_gradient_equals_trl(shared, model, tag):
    folder = shared / "golden" / "loss" / model
    golden = json.loads((folder / f"{tag}.json").read_text())
    config, _, gradients = loss_of(folder, "batch", golden["beta"])
    expected = load_file(folder / f"{tag}.grads.safetensors")
    compared = 0
    for path, leaf in flatten_dict(gradients).items():
        names = hf_names(path, config.num_hidden_layers)
        for name, gradient in zip(names, leaf if path[0] == "layers" else [leaf], strict=True):
            tolerance = 1e-4 * np.abs(expected[name]).max()
            np.testing.assert_allclose(gradient, expected[name], atol=tolerance, rtol=0, err_msg=name)
            compared += 1
    assert compared == len(expected)
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
