"""compat=trl: what TRL's accumulation and its ends of epochs make of a step. tests/train/test_golden_training.py has
TRL's own numbers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.loader import train_batches
from oddsmill.train.step.batch_rules import batch_rules
from oddsmill.train.step.step import train_step
from tests.datasets import random_pairs, write_dataset
from tests.train.decoders import VOCAB_SIZE, batch_of, decoder_config, largest_difference, objective_of, split_decoder

REPORTED = ("logps/chosen", "logps/rejected", "rewards/chosen", "rewards/rejected", "rewards/accuracies")
PAIRS = random_pairs(np.random.default_rng(1), 7, vocab_size=VOCAB_SIZE)
ROW_LENGTH = 18


def rows_of(pairs, empty=0):
    batch = batch_of([[pair] for pair in pairs], ROW_LENGTH)
    return {name: np.concatenate([x, np.zeros((empty, ROW_LENGTH), np.int32)]) for name, x in batch.items()}


@pytest.fixture(scope="module")
def step():
    """A step of gradient descent: rows, micro-batches -> (weights, metrics)."""
    definition, params = split_decoder(decoder_config())
    objective = objective_of(definition, beta=0.3, nll_scope="full", max_pairs=1)
    optimizer = optax.sgd(1.0)

    @partial(jax.jit, static_argnames=("micro_batches", "compat"))
    def take(state, batch, micro_batches, compat):
        split = batch_rules(compat).split_batch
        return train_step(
            state, batch, objective=objective, optimizer=optimizer, micro_batches=micro_batches, split=split
        )

    def run(batch, micro_batches, compat="trl"):
        state = {"params": params, "opt_state": optimizer.init(params), "step": jnp.int32(0)}
        state, metrics = take(state, batch, micro_batches=micro_batches, compat=compat)
        return state["params"], {name: float(value) for name, value in metrics.items()}

    return run


def test_a_step_is_the_mean_of_its_micro_batches(step):
    """Of two full ones, one row alone, and none: the mean of three, and no mean over tokens or pairs."""
    weights, metrics = step(rows_of(PAIRS[:5], empty=3), 4)
    parts = [step(rows_of(rows, empty=2 - len(rows)), 1) for rows in (PAIRS[:2], PAIRS[2:4], PAIRS[4:5])]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 3, *(part for part, _ in parts))
    assert largest_difference(weights, mean) < 1e-5
    for name in ("loss", "nll_loss", "log_odds_ratio", "log_odds_chosen"):
        assert metrics[name] == pytest.approx(np.mean([part[name] for _, part in parts]), rel=1e-5), name
    exact_weights, exact = step(rows_of(PAIRS[:5], empty=3), 4, compat=None)
    assert abs(exact["nll_loss"] - metrics["nll_loss"]) > 1e-3 and largest_difference(exact_weights, weights) > 1e-4


def test_at_an_epochs_end_rewards_are_of_as_many_rows_as_the_last_micro_batch_has(step):
    _, metrics = step(rows_of(PAIRS[:5], empty=3), 4)
    parts = [step(rows_of(PAIRS[first : first + 1], empty=1), 1)[1] for first in (0, 2, 4)]
    for name in REPORTED:
        assert metrics[name] == pytest.approx(np.mean([part[name] for part in parts]), rel=1e-5), name
    _, whole = step(rows_of(PAIRS[:4], empty=4), 4)
    parts = [step(rows_of(PAIRS[first : first + 2]), 1)[1] for first in (0, 2)]
    for name in REPORTED:
        assert whole[name] == pytest.approx(np.mean([part[name] for part in parts]), rel=1e-5), name


def test_no_step_holds_rows_of_two_epochs(tmp_path):
    manifest = write_dataset(
        tmp_path / "data", {"train": [[pair] for pair in PAIRS]}, row_length=ROW_LENGTH, vocab_size=VOCAB_SIZE
    )
    assert batch_rules(None).empty_rows(7, 4) == 0
    empty = batch_rules("trl").empty_rows(7, 4)
    assert empty == 1
    batches = train_batches(str(tmp_path / "data"), manifest, rows_per_step=4, shuffle=True, seed=0, empty_rows=empty)
    epochs = [[next(batches)["pair_ids"][:, 0].tolist() for _ in range(2)] for _ in range(3)]
    batches.close()
    for _, last in epochs:
        assert last[-1] == 0 and 0 not in last[:-1]
    orders = {tuple(first + last[:-1]) for first, last in epochs}
    assert len(orders) == 3 and all(sorted(order) == [pair.id for pair in PAIRS] for order in orders)


def test_an_unknown_compat_is_refused():
    with pytest.raises(Refused, match=r"--compat=tlr: expected one of trl or null"):
        TrainConfig(data="d", run_dir="r", model=ModelConfig(config="c"), compat="tlr")
