"""The parts that every preference loss shares: sums of a row by hand, denominators, and what is reported."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from oddsmill.train.loss.orpo import Orpo, odds_ratio_loss
from oddsmill.train.loss.pairs import denominators, metrics, pair_values, row_loss
from oddsmill.train.loss.simpo import cpo


def test_a_row_by_hand():
    """Two pairs and padding, log-probabilities that add up by eye."""
    branch = jnp.array([1, 1, 2, 2, 3, 2, 3, 3, 0])
    segment = jnp.array([1, 1, 1, 1, 1, 2, 2, 2, 0])
    logp = -jnp.array([5.0, 1, 1, 3, 4, 6, 1, 2, 99])
    #                  prompt | chosen | rejected | chosen | rejected | padding
    for scope, nll, tokens in (("full", 5 + 1 + 1 + 3 + 6, 5), ("response", 1 + 3 + 6, 3)):
        totals = denominators(branch, segment, scope)
        assert (totals.nll_tokens, totals.pairs) == (tokens, 2)
        orpo = Orpo(beta=0.5, nll_scope=scope)
        loss, sums = row_loss(logp, branch, segment, None, totals, loss=orpo, max_pairs=4)
        assert sums["nll"] == nll
        assert sums["chosen_logp"] == -(2 + 6) and sums["rejected_logp"] == -(4 + 1.5)
        assert sums["accurate"] == 1  # -2 > -4, -6 < -1.5
        penalty = odds_ratio_loss(jnp.array([-2.0, -6.0]), jnp.array([-4.0, -1.5])).mean()
        np.testing.assert_allclose(loss, nll / tokens + 0.5 * penalty, rtol=1e-6)
        np.testing.assert_allclose(metrics(sums, totals, orpo)["loss"], loss, rtol=1e-6)


def test_unscored_tokens_are_in_no_sum_and_no_denominator():
    """The first pair above with a tool's turn in chosen and a user's in rejected, whose log-probabilities are NaN:
    means, the sums of CPO, the NLL, gradients and the counts of an evaluation are those of the other tokens.
    """
    branch = jnp.array([1, 1, 2, 4, 4, 2, 3, 5, 3, 0])
    segment = jnp.array([1] * 9 + [0])
    logp = -jnp.array([5.0, 1, 1, jnp.nan, jnp.nan, 3, 4, jnp.nan, 2, 99])
    #                  prompt | chosen                | rejected      | padding
    losses = [Orpo(beta=0.5, nll_scope=scope) for scope in ("full", "response")]
    losses += [cpo(beta=0.5, nll_weight=1.0, label_smoothing=0.0)]
    for loss, nll, tokens in zip(losses, (5 + 1 + 1 + 3, 1 + 3, 1 + 3), (4, 2, 2), strict=True):
        totals = denominators(branch, segment, loss.nll_scope)
        assert (totals.nll_tokens, totals.pairs) == (tokens, 1)
        of_row = partial(row_loss, totals=totals, loss=loss, max_pairs=2)
        (value, sums), grad = jax.jit(jax.value_and_grad(of_row, has_aux=True))(logp, branch, segment, None)
        answers = (-(1 + 3) / 2, -(4 + 2) / 2) if loss.average_logps else (-(1 + 3), -(4 + 2))
        assert (sums["nll"], sums["chosen_logp"], sums["rejected_logp"]) == (nll, *answers)
        assert jnp.isfinite(value) and grad[jnp.array([3, 4, 7])].tolist() == [0, 0, 0]
        found = pair_values(logp, branch, segment, loss=loss, max_pairs=2)
        assert (found["chosen_tokens"][0], found["rejected_tokens"][0], found["nll_tokens"][0]) == (2, 2, tokens)
        assert found["nll"][0] == nll


def test_the_loss_does_not_depend_on_how_rows_are_grouped():
    """Denominators are those of the whole batch: the sum over any grouping of rows is the same."""
    rng = np.random.default_rng(0)
    branch = np.sort(rng.integers(1, 4, (6, 12)), axis=1)
    branch[:, 0], branch[:, -2], branch[:, -1] = 1, 2, 3
    branch = np.sort(branch, axis=1)
    segment, logp = np.ones_like(branch), -rng.exponential(size=branch.shape)
    totals = denominators(branch, segment, "full")
    row = partial(row_loss, reported=None, totals=totals, loss=Orpo(beta=0.1), max_pairs=1)
    losses = jnp.stack([row(*arrays)[0] for arrays in zip(logp.astype(np.float32), branch, segment, strict=True)])
    nll = -(logp * (branch < 3)).sum() / (branch < 3).sum()
    means = [[(logp[r][branch[r] == b]).mean() for r in range(6)] for b in (2, 3)]
    expected = nll + 0.1 * odds_ratio_loss(*map(jnp.array, means)).mean()
    np.testing.assert_allclose(losses.sum(), expected, rtol=1e-5)
