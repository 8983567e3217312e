"""SimPO and CPO beside the values of TRL's CPOTrainer, and for log-probabilities that no data have."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsmill.train.loss.pairs import PairLogps, metrics, row_loss
from oddsmill.train.loss.pairs import denominators as denominators_of
from oddsmill.train.loss.simpo import cpo, simpo, smoothed_loss

# `CPOTrainer.cpo_loss` of trl 1.16 in float64, on log-probabilities that were drawn at random.
GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "cpo_loss.json").read_text(encoding="utf-8"))


def loss_of(golden, nll_weight=1.0):
    options = {
        "beta": golden["beta"],
        "nll_weight": nll_weight,
        "label_smoothing": golden["label_smoothing"],
    }
    if golden["loss_type"] == "simpo":
        return simpo(gamma=golden["simpo_gamma"], **options)
    return cpo(**options)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: f"{golden['loss_type']}-beta{golden['beta']}")
def test_values_and_gradients_equal_trl(golden, dtype):
    loss = loss_of(golden)
    assert loss.average_logps == golden["average_log_prob"] and loss.nll_scope == "response"
    exact = {"rtol": 1e-12, "atol": 1e-12} if dtype == "float64" else {"rtol": 2e-5, "atol": 1e-6}
    with jax.enable_x64(dtype == "float64"):
        chosen, rejected = (jnp.array(golden[f"{side}_logps"], dtype) for side in ("chosen", "rejected"))

        def mean(chosen, rejected):
            losses = loss.pair_terms(PairLogps(chosen, rejected, chosen, rejected))["preference_loss"]
            return losses.mean(), losses

        (value, losses), gradients = jax.value_and_grad(mean, (0, 1), has_aux=True)(chosen, rejected)
        assert losses.dtype == dtype
        np.testing.assert_allclose(losses, golden["losses"], **exact)
        np.testing.assert_allclose(value, golden["mean"], **exact)
        for gradient, name in zip(gradients, ("d_chosen", "d_rejected"), strict=True):
            np.testing.assert_allclose(gradient, golden[name], **exact)


def one_pair_rows(golden):
    """Each pair of the golden set as a row: the prompt's label, one token of each answer, and padding."""
    chosen, rejected = (np.array(golden[f"{side}_logps"]) for side in ("chosen", "rejected"))
    other = np.full_like(chosen, -7.0)
    logp = np.stack([other, chosen, rejected, other], 1)
    branch, segment = (np.tile(row, (len(chosen), 1)).astype(np.int32) for row in ([1, 2, 3, 0], [1, 1, 1, 0]))
    return logp, branch, segment


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: f"{golden['loss_type']}-beta{golden['beta']}")
def test_the_whole_loss_and_its_metrics_are_those_of_trl(golden):
    """The mean of its losses + cpo_alpha times the NLL of the chosen answers alone; rewards are not averaged again."""
    with jax.enable_x64(True):
        loss, (logp, branch, segment) = loss_of(golden, nll_weight=0.7), one_pair_rows(golden)
        totals = denominators_of(branch, segment, loss.nll_scope)
        over_rows = jax.vmap(lambda *row: row_loss(*row, None, totals, loss=loss, max_pairs=1))
        losses, sums = over_rows(logp, branch, segment)
        nll = -np.mean(golden["chosen_logps"])
        assert float(losses.sum()) == pytest.approx(golden["mean"] + 0.7 * nll, rel=1e-12)
        found = metrics(jax.tree.map(jnp.sum, sums), totals, loss)
        expected = {
            "loss": golden["mean"] + 0.7 * nll,
            "nll_loss": nll,
            "rewards/chosen": np.mean(golden["rewards_chosen"]),
            "rewards/rejected": np.mean(golden["rewards_rejected"]),
            "rewards/margins": np.mean(golden["rewards_chosen"]) - np.mean(golden["rewards_rejected"]),
            "rewards/accuracies": np.mean(np.array(golden["rewards_chosen"]) > golden["rewards_rejected"]),
            "logps/chosen": np.mean(golden["chosen_logps"]),
            "logps/rejected": np.mean(golden["rejected_logps"]),
        }  # fmt: skip
        others = set() if golden["average_log_prob"] else {"token_logps/chosen", "token_logps/rejected"}
        assert found.keys() == expected.keys() | others
        for name, value in expected.items():
            assert float(found[name]) == pytest.approx(value, rel=1e-12), name


def test_simpo_reads_means_and_cpo_sums():
    """Answers of two tokens and of one, by hand."""
    branch, segment = jnp.array([1, 2, 2, 3]), jnp.array([1, 1, 1, 1])
    logp = -jnp.array([9.0, 1, 3, 5])
    for loss, chosen in (
        (simpo(beta=2.0, gamma=0.5, nll_weight=0.0, label_smoothing=0.0), -2.0),
        (cpo(beta=2.0, nll_weight=0.0, label_smoothing=0.0), -4.0),
    ):
        totals = denominators_of(branch, segment, loss.nll_scope)
        value, sums = row_loss(logp, branch, segment, None, totals, loss=loss, max_pairs=1)
        margin = 2 * (chosen + 5) - (0.5 if loss.average_logps else 0)
        np.testing.assert_allclose(value, np.log1p(np.exp(-margin)), rtol=1e-6)
        found = metrics(sums, totals, loss)
        assert found["nll_loss"] == 2  # it is reported whatever its weight
        assert found["logps/chosen"] == chosen
    assert (found["token_logps/chosen"], found["token_logps/rejected"]) == (-2, -5)


@given(margin=st.floats(-1e30, 1e30), label_smoothing=st.floats(0, 0.49))
def test_the_loss_and_its_gradient_are_finite_for_every_margin(margin, label_smoothing):
    value, gradient = jax.value_and_grad(smoothed_loss)(jnp.float32(margin), label_smoothing)
    assert np.isfinite(value) and value >= 0
    assert -1 <= gradient <= 1
    # The losses of a pair and of the same pair swapped differ by the margin, weighed by what is not smoothed away.
    swapped = smoothed_loss(-jnp.float32(margin), label_smoothing)
    expected = (1 - 2 * label_smoothing) * margin
    np.testing.assert_allclose(swapped - value, expected, rtol=1e-4, atol=1e-4)


def test_at_no_margin_a_pair_costs_as_much_as_a_coin():
    assert smoothed_loss(jnp.float32(0), 0.3) == pytest.approx(np.log(2))
