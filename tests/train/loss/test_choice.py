"""Which loss the settings choose, with which of their values, and what every loss must hold."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.train.config.loss import LossSettings
from oddsmill.train.loss.choice import preference_loss
from oddsmill.train.loss.orpo import Orpo
from oddsmill.train.loss.pairs import REPORTED_TERMS, PairLogps, denominators, metric_names, metrics, row_loss
from oddsmill.train.loss.simpo import cpo, simpo

LOSSES = [
    LossSettings(beta=0.3),
    LossSettings(beta=0.3, nll_scope="response"),
    LossSettings(loss="simpo", beta=2.0, cpo_alpha=0.5, label_smoothing=0.1),
    LossSettings(loss="cpo", beta=0.3),
]
every_loss = pytest.mark.parametrize(
    "loss", [preference_loss(settings) for settings in LOSSES], ids=lambda loss: f"{loss.title}-{loss.nll_scope}"
)


def test_every_setting_reaches_its_loss():
    assert preference_loss(LossSettings()) == Orpo(beta=0.1, nll_scope="full")
    settings = {"beta": 2.0, "cpo_alpha": 0.5, "label_smoothing": 0.1}
    values = {"beta": 2.0, "nll_weight": 0.5, "label_smoothing": 0.1}
    assert preference_loss(LossSettings(loss="simpo", simpo_gamma=1.0, **settings)) == simpo(gamma=1.0, **values)
    assert preference_loss(LossSettings(loss="cpo", **settings)) == cpo(**values)


@pytest.mark.parametrize(
    ("loss", "unread"),
    [
        ("orpo", {"simpo_gamma": 1.0}),
        ("orpo", {"cpo_alpha": 0.5}),
        ("orpo", {"label_smoothing": 0.1}),
        ("cpo", {"simpo_gamma": 1.0}),
        ("cpo", {"nll_scope": "response"}),
        ("simpo", {"nll_scope": "response"}),
    ],
)
def test_a_setting_that_the_loss_does_not_read_is_refused(loss, unread):
    with pytest.raises(Refused, match=f"--{next(iter(unread))}=.*--loss={loss}"):
        LossSettings(loss=loss, **unread)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"loss": "dpo"}, "--loss=dpo: expected one of orpo, simpo, cpo"),
        ({"loss": "cpo", "label_smoothing": 0.5}, r"--label_smoothing=0\.5"),
        ({"loss": "cpo", "cpo_alpha": -1.0}, r"--cpo_alpha=-1\.0"),
        ({"loss": "simpo", "simpo_gamma": -1.0}, r"--simpo_gamma=-1\.0"),
    ],
)
def test_values_without_a_meaning_are_refused(wrong, told):
    with pytest.raises(Refused, match=told):
        LossSettings(**wrong)


def rows_of(rng, count, *, padding=0):
    """Rows of two pairs each: log-probabilities, branch, segment."""
    layout = [(1, 1), (1, 1), (2, 1), (2, 1), (2, 1), (3, 1), (1, 2), (2, 2), (3, 2), (3, 2)] + [(0, 0)] * padding
    branch, segment = (np.tile(np.array(column, np.int32), (count, 1)) for column in zip(*layout, strict=True))
    return -rng.exponential(size=branch.shape), branch, segment


def loss_and_sums(loss, rows, totals):
    over_rows = jax.vmap(lambda *row: row_loss(*row, None, totals, loss=loss, max_pairs=3))
    losses, sums = over_rows(*rows)
    return losses.sum(), jax.tree.map(jnp.sum, sums)


@every_loss
def test_it_is_a_sum_over_rows_and_padding_adds_nothing(loss):
    """Value, gradient and metrics: of all rows at once, of parts of them, and with padding at their ends."""
    with jax.enable_x64(True):
        logp, branch, segment = rows_of(np.random.default_rng(0), 6)
        totals = denominators(branch, segment, loss.nll_scope)

        @jax.jit
        @partial(jax.value_and_grad, has_aux=True)
        def value(logp, branch, segment):
            return loss_and_sums(loss, (logp, branch, segment), totals)

        (whole, sums), gradient = value(logp, branch, segment)
        for parts in ((slice(1), slice(1, 6)), (slice(0, 6, 2), slice(1, 6, 2))):
            shares = [value(logp[part], branch[part], segment[part]) for part in parts]
            assert float(sum(share[0][0] for share in shares)) == pytest.approx(float(whole), rel=1e-12)
            for part, share in zip(parts, shares, strict=True):
                np.testing.assert_allclose(share[1], gradient[part], rtol=1e-12)
            for name, total in sums.items():
                assert float(sum(share[0][1][name] for share in shares)) == pytest.approx(float(total), rel=1e-12)
        # What stands in padding is no number.
        padded = [np.pad(array, ((0, 1), (0, 3))) for array in (logp, branch, segment)]
        padded[0][:, -3:] = np.nan
        assert denominators(*padded[1:], loss.nll_scope) == totals
        loss_padded, sums_padded = loss_and_sums(loss, padded, totals)
        assert float(loss_padded) == pytest.approx(float(whole), rel=1e-12)
        assert sums_padded.keys() == sums.keys()
        # The metric `loss` is what is differentiated.
        assert float(metrics(sums, totals, loss)["loss"]) == pytest.approx(float(whole), rel=1e-12)


@every_loss
def test_it_is_finite_for_every_finite_log_probability(loss):
    extremes = -np.array([0, 1e-30, 1e-8, 1e-6, 0.1, 1, 30, 1e3, 1e6], np.float32)
    chosen, rejected = (jnp.array(side.ravel()) for side in np.meshgrid(extremes, extremes))
    tokens = jnp.ones_like(chosen, jnp.int32)

    def weighed(chosen, rejected):
        terms = loss.pair_terms(PairLogps(chosen, rejected, tokens, tokens))
        return sum(weight * terms[name].sum() for name, weight in loss.weights.items() if name != "nll")

    assert np.isfinite(weighed(chosen, rejected))
    for gradient in jax.grad(weighed, (0, 1))(chosen, rejected):
        assert np.isfinite(gradient).all()


@every_loss
def test_what_it_says_of_itself_exists(loss):
    """Its weights and counts are terms, its headline and its healthy bands are metrics, and it can be hashed."""
    pair = PairLogps(*(jnp.array([-1.0]) for _ in range(4)))
    terms = loss.pair_terms(pair)
    assert loss.weights.keys() - {"nll"} <= terms.keys() and loss.counts <= terms.keys()
    assert not terms.keys() & (REPORTED_TERMS | {"nll"})
    assert all((terms[name].dtype == bool) == (name in loss.counts) for name in terms)
    names = metric_names(loss)
    assert names[0] == "loss" and set(loss.headline) <= set(names)
    assert {band.metric.removeprefix("eval/") for band in loss.healthy} <= set(names)
    assert all(band.low < band.high for band in loss.healthy)
    assert hash(loss) == hash(dataclasses.replace(loss))


@every_loss
def test_rows_that_are_not_reported_count_in_the_loss_alone(loss):
    with jax.enable_x64(True):
        rows = rows_of(np.random.default_rng(1), 4)
        totals = denominators(*rows[1:], loss.nll_scope, reported=jnp.array([True, True, False, False]))
        assert (totals.pairs, totals.reported) == (8, 4)
        over_rows = jax.vmap(lambda *row: row_loss(*row, totals, loss=loss, max_pairs=3))
        losses, sums = over_rows(*rows, jnp.array([True, True, False, False]))
        found = metrics(jax.tree.map(jnp.sum, sums), totals, loss)
        whole = loss_and_sums(loss, rows, denominators(*rows[1:], loss.nll_scope))
        assert float(losses.sum()) == pytest.approx(float(whole[0]), rel=1e-12)
        assert float(found["loss"]) == pytest.approx(float(whole[0]), rel=1e-12)
        first = [array[:2] for array in rows]
        of_first = denominators(*first[1:], loss.nll_scope)
        expected = metrics(loss_and_sums(loss, first, of_first)[1], of_first, loss)
        for name in found:
            if name.startswith(("rewards/", "logps/", "token_logps/")):
                assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-12), name
