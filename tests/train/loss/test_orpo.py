"""The ORPO loss against TRL's values, and in the places where TRL's has none."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oddsmill.train.loss.orpo import MAX_MEAN_LOGP, Orpo, log_odds, odds_ratio_loss
from oddsmill.train.loss.pairs import denominators, row_loss

GRID = Path(__file__).parents[2] / "golden" / "odds_ratio_grid.npz"
BETA = 0.1  # of the grid


@pytest.fixture(scope="module")
def grid():
    return np.load(GRID)


def our_grid(grid):
    chosen, rejected = grid["chosen_logps"], grid["rejected_logps"]

    def loss(chosen, rejected):
        return BETA * odds_ratio_loss(chosen, rejected)

    slopes = jax.vmap(jax.grad(loss, (0, 1)))(chosen, rejected)
    return np.asarray(loss(chosen, rejected)), *map(np.asarray, slopes)


def test_odds_ratio_loss_equals_trl_below_the_clamp(grid):
    """Values and gradients on every pair of log-probabilities of at most -1e-6."""
    loss, chosen_slope, rejected_slope = our_grid(grid)
    chosen, rejected = grid["chosen_logps"], grid["rejected_logps"]
    below = (np.maximum(chosen, rejected) <= MAX_MEAN_LOGP) & np.isfinite(chosen) & np.isfinite(rejected)
    assert below.sum() > 800
    # TRL's `losses` are beta * log sigmoid: the loss subtracts them.
    np.testing.assert_allclose(loss[below], -grid["losses"][below], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(chosen_slope[below], grid["grad_chosen"][below], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rejected_slope[below], grid["grad_rejected"][below], rtol=1e-5, atol=1e-6)
    odds = np.asarray(log_odds(chosen) - log_odds(rejected))
    np.testing.assert_allclose(odds[below], grid["log_odds"][below], rtol=1e-5, atol=1e-6)


def test_odds_ratio_loss_is_finite_where_trl_gives_inf_or_nan(grid):
    """Deviation on purpose: a probability of exactly 1 has a finite loss and gradient here, NaN in TRL."""
    loss, chosen_slope, rejected_slope = our_grid(grid)
    finite = np.isfinite(grid["chosen_logps"]) & np.isfinite(grid["rejected_logps"])
    trl_breaks = ~np.isfinite(grid["losses"] + grid["grad_chosen"] + grid["grad_rejected"])
    assert (finite & trl_breaks).sum() > 200
    for values in (loss, chosen_slope, rejected_slope):
        assert np.isfinite(values[finite]).all()
    assert np.abs(rejected_slope[finite]).max() <= 1.001e6 * BETA


def test_the_gradient_pulls_apart_even_when_both_answers_are_certain():
    slopes = jax.grad(odds_ratio_loss, (0, 1))(0.0, 0.0)
    assert slopes[0] < -1e5 and slopes[1] > 1e5


def test_the_closed_gradient_is_the_derivative():
    """Against central differences in float64, over four decades of log-probability."""
    with jax.enable_x64(True):
        chosen, rejected = (x.ravel() for x in np.meshgrid(-np.logspace(-2, 1.5, 12), -np.logspace(-2, 1.5, 12)))
        slopes = jax.vmap(jax.grad(odds_ratio_loss, (0, 1)))(chosen, rejected)
        for index, slope in enumerate(slopes):
            step = 1e-6 * np.abs((chosen, rejected)[index])
            moved = [
                odds_ratio_loss(*(np.array([chosen, rejected]) + s * step * np.eye(2)[index][:, None])) for s in (1, -1)
            ]
            np.testing.assert_allclose(slope, (moved[0] - moved[1]) / (2 * step), rtol=1e-6, atol=1e-9)


def test_clamped_pairs_are_counted():
    branch, segment = jnp.array([1, 2, 3]), jnp.array([1, 1, 1])
    totals = denominators(branch, segment, "full")

    def clamped(*logp):
        return row_loss(jnp.array(logp), branch, segment, None, totals, loss=Orpo(beta=0.1), max_pairs=1)[1]["clamped"]

    assert clamped(-1.0, 0.0, -1.0) == clamped(-1.0, -1.0, 0.0) == 1
    assert clamped(-1.0, -1.0, -1.0) == 0
