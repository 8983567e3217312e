"""Logits processors against plain numpy, by worked examples, and by how often tokens are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oddsmill.train.config.sampling import SamplingConfig
from oddsmill.train.generation.sampling import choose, keep_top_k, keep_top_p, penalize_repetition, process_logits

LOGITS = np.array([[2.0, -1.0, 0.5, 2.0, -3.0, 1.0]], np.float32)
GONE = -np.inf


def log(*probabilities):
    return np.log(np.array([probabilities], np.float32))


def test_a_penalty_divides_what_is_above_zero_and_multiplies_what_is_below():
    seen = np.array([[True, True, False, False, False, False]])
    np.testing.assert_allclose(penalize_repetition(LOGITS, seen, 2.0), [[1.0, -2.0, 0.5, 2.0, -3.0, 1.0]])
    np.testing.assert_allclose(penalize_repetition(LOGITS, seen, 0.5), [[4.0, -0.5, 0.5, 2.0, -3.0, 1.0]])


def test_top_k_keeps_the_k_highest_and_the_equals_of_the_last():
    np.testing.assert_array_equal(keep_top_k(LOGITS, 3), [[2.0, GONE, GONE, 2.0, GONE, 1.0]])
    np.testing.assert_array_equal(keep_top_k(LOGITS, 1), [[2.0, GONE, GONE, 2.0, GONE, GONE]])
    np.testing.assert_array_equal(keep_top_k(LOGITS, 99), LOGITS)


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    def kept(p):
        return (keep_top_p(log(0.1, 0.4, 0.2, 0.3), p)[0] > GONE).tolist()

    assert kept(0.95) == [True, True, True, True]
    assert kept(0.85) == [False, True, True, True]
    assert kept(0.65) == [False, True, False, True]
    assert kept(0.35) == [False, True, False, False]
    assert kept(0.0) == [False, True, False, False]  # one token always stays


def plain(logits, seen, sampling):
    """One row, by the definitions, in float64."""
    logits = [float(logit) for logit in logits]
    for token in seen:
        logits[token] *= sampling.repetition_penalty if logits[token] < 0 else 1 / sampling.repetition_penalty
    logits = np.array(logits) / sampling.temperature
    if sampling.top_k:
        logits = np.where(logits >= np.sort(logits)[-min(sampling.top_k, len(logits))], logits, GONE)
    if sampling.top_p < 1:
        probability = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        total = 0.0
        for token in np.argsort(-logits):
            if total >= sampling.top_p:
                logits[token] = GONE
            total += probability[token]
    return logits


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7, "top_k": 0},
        {"top_k": 7},
        {"top_k": 0, "top_p": 0.8},
        {"repetition_penalty": 1.3, "temperature": 0.5, "top_k": 9, "top_p": 0.6},
        {"repetition_penalty": 0.8, "temperature": 3.0, "top_k": 500, "top_p": 0.97},
    ],
)
def test_all_together_are_the_plain_definitions_in_transformers_order(settings):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (8, 60)).astype(np.float32)
    seen = rng.random((8, 60)) < 0.3
    sampling = SamplingConfig(do_sample=True, **settings)
    expected = np.array([plain(row, np.flatnonzero(mask), sampling) for row, mask in zip(logits, seen, strict=True)])
    assert np.isinf(expected).any() or sampling.top_p == 1
    np.testing.assert_allclose(process_logits(logits, jnp.asarray(seen), sampling), expected, rtol=1e-5)


def test_tokens_are_drawn_as_often_as_they_are_probable():
    sampling = SamplingConfig(do_sample=True, temperature=2.0, top_k=5, top_p=0.95)
    logits = np.array([[1.0, 4.0, 2.5, -1.0, 3.0, 0.0, 2.0]], np.float32)
    draws = 20_000
    keys = jax.random.split(jax.random.key(0), draws)
    drawn = choose(jnp.broadcast_to(logits, (draws, 7)), None, keys, sampling)
    probability = np.exp(plain(logits[0], [], sampling))
    probability /= probability.sum()
    counts = np.bincount(drawn, minlength=7)
    possible = probability > 0
    assert possible.sum() == 5 and not counts[~possible].any()
    expected = draws * probability[possible]
    # 18.5 is the 99.9th percentile of chi-square with 4 degrees of freedom.
    assert ((counts[possible] - expected) ** 2 / expected).sum() < 18.5


def test_greedy_takes_the_most_probable_after_the_penalty():
    seen = np.array([[True, False, False, True, False, False]])
    assert choose(LOGITS, None, None, SamplingConfig()).tolist() == [0]
    assert choose(LOGITS, seen, None, SamplingConfig(repetition_penalty=4.0)).tolist() == [5]
