"""The one function of the decoder: whichever mechanism a decoder has, its loss and gradients are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from oddsmill.train.attention.attention import attention
from oddsmill.train.attention.mask import Keys
from oddsmill.train.attention.mechanism import Mechanism
from oddsmill.train.attention.xla import BLOCK
from oddsmill.train.model.decoder import Decoder
from tests.datasets import packed, random_pairs
from tests.train.attention.packed_rows import rows_of_pairs
from tests.train.decoders import (
    batch_of,
    decoder_config,
    largest_difference,
    mechanism_of,
    objective_of,
    split_decoder,
)


def test_every_mechanism_gives_the_same_and_only_vanilla_holds_all_scores():
    length = 2 * BLOCK
    rows = packed(random_pairs(np.random.default_rng(0), 90, vocab_size=48, longest=40), length)[:2]
    with jax.enable_x64(True):
        _, params = split_decoder(decoder_config(), jnp.float64)
        batch = batch_of(rows, length)
        losses, gradients, holds_all = {}, {}, {}
        for mechanism in ("xla", "pallas", "vanilla"):  # in float64
            decoder = Decoder(
                decoder_config(), rngs=nnx.Rngs(0), param_dtype=jnp.float64, compute_dtype=jnp.float64,
                attn_mechanism=mechanism_of(mechanism),
            )  # fmt: skip
            objective = objective_of(nnx.split(decoder)[0], beta=0.3, nll_scope="full", max_pairs=max(map(len, rows)))
            step = jax.value_and_grad(objective.loss, has_aux=True)
            traced = jax.jit(step).trace(params, batch, objective.totals(batch))
            holds_all[mechanism] = f"{length},{length}]" in str(traced.jaxpr)
            compiled = traced.lower().compile()
            (losses[mechanism], _), gradients[mechanism] = compiled(params, batch, objective.totals(batch))
        differences = [largest_difference(gradients[name], gradients["vanilla"]) for name in ("xla", "pallas")]
    assert holds_all == {"xla": False, "pallas": False, "vanilla": True}
    assert losses["xla"] == pytest.approx(float(losses["vanilla"]), rel=1e-12)
    assert losses["pallas"] == pytest.approx(float(losses["vanilla"]), rel=1e-12)
    assert max(differences) < 1e-12


def test_a_mechanism_is_asked_for_whole_rows_that_it_takes_and_for_nothing_else():
    """Rows of another length, queries after a cache, and dropout of the weights are dense."""
    asked = []

    def compute(rows, scale, softcap):
        asked.append(rows.query_BLNH.shape[1])
        return jnp.full(rows.query_BLNH.shape, 7.0)

    mechanism = Mechanism(name="sevens", compute=compute, length_multiple=16, shortest_row=32)
    position, end = rows_of_pairs(5, 48)
    query, key = np.ones((3, 48, 4, 8), np.float32), np.ones((3, 48, 2, 8), np.float32)

    def output(length=48, first=0, drop=None):
        places, keys = position[:, first:length], Keys(position[:, :length], end[:, :length])
        rows = query[:, first:length], key[:, :length], key[:, :length]
        return attention(*rows, places, keys, scale=0.5, mechanism=mechanism, first_query=first, drop=drop)

    assert (output() == 7).all() and (output(32) == 7).all() and asked == [48, 32]
    for dense in (output(40), output(16), output(first=47), output(drop=lambda weights: weights)):
        np.testing.assert_allclose(dense, 1, rtol=1e-6)  # weights sum to one
    assert asked == [48, 32]
