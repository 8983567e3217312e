"""Blockwise attention equals the dense form, in value and gradient, whatever the packing, window and soft cap."""

from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from schemas.layout import derive
from schemas.record import make_row
from tests.datasets import packed, random_pairs
from tests.train.decoders import batch_of, decoder_config, largest_difference, objective_of, split_decoder
from train import attention as module
from train.attention import AttentionMechanism, Keys, blockwise_attention, dense_attention
from train.model import Decoder

VOCAB_SIZE, LENGTH = 50, 48


def rows_of_pairs(longest):
    """Positions and ends of three packed rows, the last one mostly padding."""
    pairs = random_pairs(np.random.default_rng(longest), 60, vocab_size=VOCAB_SIZE, longest=longest)
    rows = [*packed(pairs, LENGTH)[:2], pairs[:1]]
    arrays = [derive(make_row(row, row_length=LENGTH, pad_id=0, vocab_size=VOCAB_SIZE)) for row in rows]
    return np.stack([array.position for array in arrays]), np.stack([array.end for array in arrays])


@pytest.mark.parametrize("longest", [2, 5, 15], ids=["many short pairs", "some pairs", "one pair a row"])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (3, None), (None, 2.0), (5, 1.5)])
def test_blockwise_attention_equals_dense_attention(longest, window, softcap, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 8)
    with jax.enable_x64(True):
        position, end = rows_of_pairs(longest)
        rng = np.random.default_rng(0)
        query = rng.normal(size=(3, LENGTH, 2, 3, 4))
        key, value = rng.normal(size=(2, 3, LENGTH, 2, 4))
        slope = np.where((end > 0)[..., None, None, None], rng.normal(size=query.shape), 0)
        limit = None if window is None else jnp.int32(window)

        def total(form, query, key, value):
            output = form(query, key, value, position, Keys(position, end), limit, 0.5, softcap)
            return (output * slope).sum(), output

        results = [
            jax.jit(jax.value_and_grad(partial(total, form), (0, 1, 2), has_aux=True))(query, key, value)
            for form in (blockwise_attention, dense_attention)
        ]
        (_, ours), gradients = results[0]
        (_, reference), reference_gradients = results[1]
        real = end > 0
        np.testing.assert_allclose(ours[real], reference[real], atol=1e-12)
        assert np.isfinite(ours).all()
        for found, expected in zip(gradients, reference_gradients, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-12)


def test_blocks_that_the_mask_empties_are_passed_over(monkeypatch):
    """A query block begins with the first block that holds a key of its own pairs."""
    monkeypatch.setattr(module, "BLOCK", 8)
    end = np.repeat([16, 24, 48, 0], [16, 8, 16, 8])[None]
    assert module._first_key_blocks(Keys(None, jnp.asarray(end))).tolist() == [0, 0, 2, 3, 3, 3]


def test_every_mechanism_gives_the_same_and_only_vanilla_holds_all_scores():
    length = 2 * module.BLOCK
    rows = packed(random_pairs(np.random.default_rng(0), 90, vocab_size=48, longest=40), length)[:2]
    with jax.enable_x64(True):
        _, params = split_decoder(decoder_config(), jnp.float64)
        batch = batch_of(rows, length)
        losses, gradients, holds_all = {}, {}, {}
        for mechanism in get_args(AttentionMechanism):
            decoder = Decoder(
                decoder_config(), rngs=nnx.Rngs(0), param_dtype=jnp.float64, compute_dtype=jnp.float64,
                attn_mechanism=mechanism,
            )  # fmt: skip
            objective = objective_of(nnx.split(decoder)[0], beta=0.3, nll_scope="full", max_pairs=max(map(len, rows)))
            step = jax.value_and_grad(objective.loss, has_aux=True)
            holds_all[mechanism] = f"{length},{length}]" in str(
                jax.make_jaxpr(step)(params, batch, objective.totals(batch))
            )
            (losses[mechanism], _), gradients[mechanism] = jax.jit(step)(params, batch, objective.totals(batch))
        difference = largest_difference(gradients["auto"], gradients["vanilla"])
    assert holds_all == {"auto": False, "xla": False, "vanilla": True}
    assert losses["auto"] == losses["xla"] == pytest.approx(float(losses["vanilla"]), rel=1e-12)
    assert difference < 1e-12
