"""One pass over rows and two over positions: the same loss and gradients, however rows are divided."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oddsmill.train.loss import head_passes
from oddsmill.train.loss.head_passes import Rows, label_logps, losses_alone, losses_and_gradients
from oddsmill.train.loss.logits import HeadShard
from oddsmill.train.loss.orpo import Orpo
from oddsmill.train.loss.pairs import denominators, needed_positions, row_loss
from tests.datasets import random_pairs
from tests.train.decoders import VOCAB_SIZE, batch_of

LENGTH, HIDDEN = 24, 4


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def case(nll_scope):
    """Rows, head, denominators and row loss of six pairs in three rows."""
    pairs = random_pairs(np.random.default_rng(0), 6, vocab_size=VOCAB_SIZE, longest=4)
    batch = batch_of([pairs[:2], pairs[2:4], pairs[4:]], LENGTH)
    rng, loss = np.random.default_rng(1), Orpo(beta=0.3, nll_scope=nll_scope)
    rows = Rows(
        hidden=jnp.array(rng.normal(size=(3, LENGTH, HIDDEN))),
        labels=jnp.array(batch["labels"]),
        branch=jnp.array(batch["branch"]),
        segment=jnp.array(batch["segment"]),
        needed=needed_positions(jnp.array(batch["branch"]), nll_scope),
    )
    head = HeadShard(jnp.array(rng.normal(size=(VOCAB_SIZE, HIDDEN))), None, None)
    totals = denominators(rows.branch, rows.segment, nll_scope)
    return rows, head, totals, partial(row_loss, loss=loss, max_pairs=2)


@pytest.mark.parametrize("nll_scope", ["full", "response"])
@pytest.mark.parametrize("chunk_rows", [1, 3])
def test_both_ways_give_one_loss_and_the_gradients_of_autodiff(nll_scope, chunk_rows, monkeypatch):
    rows, head, totals, one_row = case(nll_scope)
    monkeypatch.setattr(head_passes, "CHUNK_BYTES", 4 * LENGTH * VOCAB_SIZE * chunk_rows)
    monkeypatch.setattr(head_passes, "TILE", 8)

    def dense(hidden, weight):
        logp = jax.nn.log_softmax(hidden @ weight.T)
        logp = jnp.take_along_axis(logp, rows.labels[..., None], -1)[..., 0]
        return sum(one_row(logp[r], rows.branch[r], rows.segment[r], None, totals)[0] for r in range(3))

    expected, gradients = jax.jit(jax.value_and_grad(dense, (0, 1)))(rows.hidden, head.weight_VD)
    for row_bytes in (2**40, 0):
        monkeypatch.setattr(head_passes, "ROW_BYTES", row_bytes)
        found = losses_and_gradients(rows, head, totals, one_row)
        assert float(found.loss) == pytest.approx(float(expected), rel=1e-12)
        np.testing.assert_allclose(found.hidden_gradient, gradients[0], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found.head_gradient, gradients[1], rtol=1e-9, atol=1e-12)
    alone = losses_alone(rows, head, totals, one_row)
    assert float(alone.loss) == pytest.approx(float(expected), rel=1e-12)
    assert alone.hidden_gradient is alone.head_gradient is None
    assert {name: pytest.approx(float(total)) for name, total in found.sums.items()} == alone.sums


def test_log_probabilities_are_zero_where_none_is_needed():
    rows, head, _, _ = case("response")
    logp = np.asarray(label_logps(rows, head))
    needed = np.asarray(rows.needed)
    assert (logp[needed] < 0).all() and not logp[~needed].any()


@pytest.mark.parametrize("positions", [1, 128, 129, 512, 2048, 5000])
def test_compiled_sizes_are_few_rise_evenly_and_hold_all_positions(positions):
    sizes = head_passes._chunk_sizes(positions)
    assert len(sizes) <= head_passes.CHUNK_SIZES and sizes[-1] == positions
    assert sizes == sorted(set(sizes)) and all(size % head_passes.TILE == 0 for size in sizes[:-1])
