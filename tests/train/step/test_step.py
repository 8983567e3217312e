"""One optimizer step and one evaluation step of each loss: micro-batches, metrics, values of pairs."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from oddsmill.train.config.loss import LossSettings
from oddsmill.train.loss.choice import preference_loss
from oddsmill.train.step.step import eval_step, fingerprint, train_step
from tests.datasets import random_pairs
from tests.train.decoders import VOCAB_SIZE, batch_of, decoder_config, largest_difference, objective_of, split_decoder

ROW_LENGTH = 24
LOSSES = {
    "orpo": LossSettings(beta=0.3),
    "simpo": LossSettings(loss="simpo", beta=2.0, label_smoothing=0.1),
    "cpo": LossSettings(loss="cpo", beta=0.3, cpo_alpha=0.5),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def case(name):
    """Objective and weights of a small decoder, and a batch of six rows, one of them with two pairs."""
    definition, params = split_decoder(decoder_config(), jnp.float64)
    objective = objective_of(definition, beta=0.3, nll_scope="full", max_pairs=2)
    objective = dataclasses.replace(objective, preference=preference_loss(LOSSES[name]))
    pairs = random_pairs(np.random.default_rng(3), 7, vocab_size=VOCAB_SIZE, longest=4)
    batch = batch_of([pairs[:2], *([pair] for pair in pairs[2:])], ROW_LENGTH)
    return objective, params, {name: jnp.array(array) for name, array in batch.items()}


@partial(jax.jit, static_argnums=0)
def loss_of(objective, params, batch):
    return objective.loss(params, batch, objective.totals(batch))[0]


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_does_not_depend_on_its_micro_batches(name):
    """Weights and metrics of a step in one piece and in six; of one loss in two as well, which is the same program."""
    objective, params, batch = case(name)
    optimizer = optax.sgd(1.0)
    state = {"params": params, "opt_state": optimizer.init(params), "step": jnp.int32(0)}
    options = {"objective": objective, "optimizer": optimizer}
    (whole, metrics), *parts = (
        jax.jit(train_step, static_argnames=(*options, "micro_batches"))(state, batch, **options, micro_batches=count)
        for count in ((1, 2, 6) if name == next(iter(LOSSES)) else (1, 6))
    )
    assert largest_difference(whole["params"], params) > 1e-3  # it has moved
    for state_of_parts, metrics_of_parts in parts:
        assert largest_difference(state_of_parts["params"], whole["params"]) < 1e-12
        assert metrics_of_parts.keys() == metrics.keys()
        for metric, value in metrics.items():
            assert float(metrics_of_parts[metric]) == pytest.approx(float(value), rel=1e-12, abs=1e-13), metric
    loss = loss_of(objective, params, batch)
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-12)
    assert (metrics["num_pairs"], metrics["num_tokens"]) == (7, (batch["branch"] > 0).sum())


@pytest.mark.parametrize("name", LOSSES)
def test_the_pairs_of_an_evaluation_add_up_to_the_loss(name):
    objective, params, batch = case(name)
    ids = jnp.arange(6)
    values = jax.jit(eval_step, static_argnames="objective")(params, {**batch, "pair_ids": ids}, objective=objective)
    assert (values.pop("pair_ids") == ids).all()
    is_pair = values["chosen_tokens"] > 0
    assert is_pair.sum() == 7
    assert not any(np.asarray(column)[~is_pair].any() for column in values.values())
    for side, branch in (("chosen", 2), ("rejected", 3)):
        assert values[f"{side}_tokens"].sum() == (batch["branch"] == branch).sum()
    parts = {
        term: values[term].sum() / (values["nll_tokens"].sum() if term == "nll" else 7)
        for term in objective.preference.weights
    }
    expected = sum(weight * float(parts[term]) for term, weight in objective.preference.weights.items())
    loss = loss_of(objective, params, batch)
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_a_row_has_one_fingerprint_wherever_it_lies_and_other_tokens_another():
    rows = jnp.array([[1, 2, 3, 0], [3, 2, 1, 0], [1, 2, 3, 0], [1, 2, 0, 3]])
    found = np.asarray(fingerprint(rows))
    assert found[0] == found[2] and len(set(found.tolist())) == 3
    assert found.dtype == np.uint32


def test_gradients_of_weights_in_bfloat16_are_added_up_in_float32():
    """What the optimizer gets, of six micro-batches; their norm, too, is float32."""
    definition, params = split_decoder(decoder_config(), jnp.bfloat16)
    objective = objective_of(definition, beta=0.3, nll_scope="full", max_pairs=1)
    batch = dict.fromkeys(("inputs", "labels", "position", "end", "branch", "segment"), jnp.zeros((6, 24), jnp.int32))
    given = []
    optimizer = optax.GradientTransformation(
        lambda params: (), lambda gradients, state, params: (given.append(gradients) or gradients, state)
    )
    state = {"params": params, "opt_state": (), "step": jnp.int32(0)}
    step = partial(train_step, objective=objective, optimizer=optimizer, micro_batches=6)
    after, metrics = jax.eval_shape(step, state, batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(after["params"])} == {jnp.dtype("bfloat16")}
    assert {metrics["grad_norm"].dtype, *(leaf.dtype for leaf in jax.tree.leaves(given))} == {jnp.dtype("float32")}
