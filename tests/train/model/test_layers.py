"""The parts of the decoder: rotation, norms, and the dropout of a config.json, where it falls and what decides it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oddsmill.train.attention.attention import attention
from oddsmill.train.attention.mask import Keys
from oddsmill.train.attention.xla import XLA
from oddsmill.train.model.layers import RMSNorm, drop, rotate, rows_of
from tests.datasets import packed, random_pairs
from tests.train.decoders import VOCAB_SIZE, batch_of, decoder_config, objective_of, split_decoder

ROW_LENGTH = 32
BATCH = batch_of(packed(random_pairs(np.random.default_rng(3), 8, vocab_size=VOCAB_SIZE), ROW_LENGTH), ROW_LENGTH)


def test_a_share_is_dropped_and_the_mean_stays():
    keys = jax.random.split(jax.random.key(0), 3)
    found = drop(jnp.ones((3, 200, 50)), keys, stream=1, rate=0.2)
    np.testing.assert_allclose(np.unique(found), [0, 1.25])
    np.testing.assert_allclose((found == 0).mean(axis=(1, 2)), 0.2, atol=0.02)
    assert not np.array_equal(found, drop(jnp.ones((3, 200, 50)), keys, stream=2, rate=0.2))
    np.testing.assert_array_equal(drop(jnp.ones((3, 200, 50)), keys[::-1], stream=1, rate=0.2), found[::-1])


def test_attention_weights_are_dropped_after_the_softmax():
    """With every weight doubled but those of one key, which is dropped: twice the others' part. At any row length."""
    length = 256  # by blocks, were there no dropout
    query, key, value = jax.random.normal(jax.random.key(0), (3, 1, length, 2, 4))
    position = jnp.arange(length)[None]
    keys = Keys(position=position, end=jnp.full((1, length), length))

    def output(drop=None, value=value):
        return attention(query, key, value, position, keys, scale=0.5, drop=drop, mechanism=XLA)

    without_key = output(value=value.at[:, 5].set(0))
    np.testing.assert_allclose(output(lambda weights: 2 * weights.at[..., 5].set(0)), 2 * without_key, atol=1e-5)
    np.testing.assert_allclose(output(lambda weights: weights), output(), atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{"attention_dropout": 0.3}, {"model_type": "phi3", "resid_pdrop": 0.3, "num_key_value_heads": 4}],
    ids=["attention", "residual"],
)
def test_it_is_of_the_step_and_the_row_and_of_nothing_else(changes):
    """It changes the loss of a training step, not of an evaluation; rows in another order draw the same."""

    def losses(changes):
        definition, params = split_decoder(decoder_config(**changes))
        objective = objective_of(definition, beta=0.1, nll_scope="full", max_pairs=8)
        objective = dataclasses.replace(objective, dropout_seed=0)
        loss = jax.jit(objective.loss)
        return lambda step, batch=BATCH: float(loss(params, batch, objective.totals(batch), None, step)[0])

    at, plain = losses(changes), losses({**changes, "attention_dropout": 0.0, "resid_pdrop": 0.0})
    dropped = at(3)
    assert at(None) == pytest.approx(plain(3), rel=1e-6)
    assert abs(at(None) - dropped) > 1e-3 and abs(at(4) - dropped) > 1e-3
    assert at(3, {name: array[::-1] for name, array in BATCH.items()}) == pytest.approx(dropped, rel=1e-5)


def test_scores_depend_on_the_distance_of_rotated_tokens_alone():
    rng, frequencies = np.random.default_rng(0), np.array([1.0, 0.1])
    query, key = rng.normal(size=(2, 1, 1, 1, 6)).astype(np.float32)

    def score(query_position, key_position):
        rotated = (rotate(x, np.array([[at]]), frequencies) for x, at in ((query, query_position), (key, key_position)))
        return np.vdot(*rotated)

    assert score(7, 3) == pytest.approx(score(4, 0), abs=1e-5)
    assert abs(score(7, 3) - score(7, 2)) > 1e-2
    position = np.array([[5]])
    np.testing.assert_array_equal(rotate(query, position, frequencies)[..., 4:], query[..., 4:])


@pytest.mark.parametrize(("family", "start"), [("llama", 1), ("gemma", 0)])
def test_a_norm_starts_as_the_identity_of_unit_vectors_with_and_without_an_offset(family, start):
    norm = RMSNorm(64, decoder_config(model_type=family, head_dim=4), dtype=jnp.float32)
    assert (norm.weight[...] == start).all()
    x = 5 * np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    np.testing.assert_allclose(norm(x), x / np.sqrt((x**2).mean(-1, keepdims=True)), rtol=1e-5)
    norm.weight[...] = norm.weight[...] + 1
    np.testing.assert_allclose(norm(x), 2 * x / np.sqrt((x**2).mean(-1, keepdims=True)), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_gradient_of_a_frequent_token_is_not_lost(dtype):
    """A thousand occurrences of token 1 add up to a thousand; a sum in bfloat16 stands still at 256."""
    ids = jnp.array([[1, 2] + [1] * 999])

    def total(weight_VD):
        return rows_of(weight_VD, ids).astype(jnp.float32).sum()

    found = jax.grad(jax.jit(total))(jnp.zeros((4, 2), dtype))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, [[0, 0], [1000, 1000], [1, 1], [0, 0]])
