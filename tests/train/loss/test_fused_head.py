"""The fused head equals the dense one, in value and in every gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oddsmill.train.data.loader import DEVICE_ARRAYS
from oddsmill.train.loss import fused_head as head
from oddsmill.train.loss import head_passes
from oddsmill.train.loss.head_passes import Rows
from oddsmill.train.loss.pairs import row_loss
from tests.datasets import packed, random_pairs
from tests.train.decoders import (
    VOCAB_SIZE,
    batch_of,
    decoder_config,
    dense_loss,
    largest_difference,
    objective_of,
    split_decoder,
)

GEMMA = {
    "num_hidden_layers": 1,
    "model_type": "gemma2",
    "head_dim": 4,
    "query_pre_attn_scalar": 4,
    "sliding_window": 1024,
}


@pytest.mark.parametrize("nll_scope", ["full", "response"])
@pytest.mark.parametrize(
    ("rows", "passes"), [(1, 1), (4, 1), (2, 2)], ids=["row by row", "all at once", "in two passes"]
)
def test_fused_head_equals_dense_logits(nll_scope, rows, passes, monkeypatch):
    monkeypatch.setattr(head_passes, "CHUNK_BYTES", rows * 32 * VOCAB_SIZE * 4)
    monkeypatch.setattr(head_passes, "ROW_BYTES", {1: 2**30, 2: 0}[passes])
    monkeypatch.setattr(head_passes, "TILE", 24)  # which divides no row
    with jax.enable_x64(True):
        pairs = random_pairs(np.random.default_rng(1), 12, vocab_size=VOCAB_SIZE)
        batch = batch_of(packed(pairs, 32)[:4], 32)
        definition, params = split_decoder(decoder_config(final_logit_softcapping=2.0, **GEMMA), jnp.float64)
        objective = objective_of(definition, beta=0.3, nll_scope=nll_scope, max_pairs=8)

        def dense(params):
            return dense_loss(definition, params, batch, beta=0.3, nll_scope=nll_scope, max_pairs=8)

        def fused(params):
            return objective.loss(params, batch, objective.totals(batch))

        reference = jax.jit(jax.value_and_grad(dense, has_aux=True))(params)
        found = jax.jit(jax.value_and_grad(fused, has_aux=True))(params)
        assert largest_difference(found, reference) < 1e-12
        # The value alone takes another path (no gradients are made).
        assert largest_difference(jax.jit(fused)(params), reference[0]) < 1e-12


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_of_bfloat16_weights_are_bfloat16(tied):
    definition, params = split_decoder(decoder_config(num_hidden_layers=1, tie_word_embeddings=tied), jnp.bfloat16)
    batch = batch_of([random_pairs(np.random.default_rng(0), 2, vocab_size=VOCAB_SIZE)], 48)
    objective = objective_of(definition, beta=0.3, nll_scope="full", max_pairs=2)
    gradients = jax.eval_shape(
        jax.grad(lambda params: objective.loss(params, batch, objective.totals(batch))[0]), params
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(("tile", "sizes"), [(4, 3), (1, 12)], ids=["with room to spare", "to the position"])
def test_only_needed_positions_are_computed(tile, sizes, monkeypatch):
    """Whatever stands at the others, which a chunk has no room for: infinities here."""
    monkeypatch.setattr(head_passes, "TILE", tile)
    monkeypatch.setattr(head_passes, "CHUNK_SIZES", sizes)
    batch = batch_of([random_pairs(np.random.default_rng(0), 2, vocab_size=VOCAB_SIZE, longest=2)], 12)
    needed = batch["branch"] > 1
    assert needed.sum() <= 8
    hidden = np.where(needed[..., None], 1.0, np.inf).astype(np.float32) * np.ones(4, np.float32)
    weight = np.random.default_rng(0).normal(size=(VOCAB_SIZE, 4)).astype(np.float32)
    objective = objective_of(None, beta=0.3, nll_scope="response", max_pairs=2)
    one_row = partial(row_loss, loss=objective.preference, max_pairs=2)

    def loss(hidden, weight):
        rows = Rows(hidden, *(batch[name] for name in ("labels", "branch", "segment")), needed)
        return head.fused_head_loss(rows, weight, objective.totals(batch), one_row, objective.mesh, None)[0]

    values = []
    for by_row in (2**30, 0):
        monkeypatch.setattr(head_passes, "ROW_BYTES", by_row)
        value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(hidden, weight)
        assert np.isfinite(value)
        assert all(np.isfinite(gradient).all() for gradient in gradients)
        assert not np.any(gradients[0][~needed])
        values.append(float(value))
    assert values[0] == pytest.approx(values[1], rel=1e-5)  # all that are needed are, whichever way is taken


def test_no_array_of_all_positions_by_the_vocabulary_exists(monkeypatch):
    """Compiled memory grows by far less than the logits of the rows that are added to a batch."""
    vocab, length = 16384, 128
    monkeypatch.setattr(head_passes, "CHUNK_BYTES", 1)
    config = decoder_config(vocab_size=vocab, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1)
    definition, params = split_decoder(config)
    objective = objective_of(definition, beta=0.1, nll_scope="full", max_pairs=8)

    def temporary_bytes(rows):
        batch = {name: np.ones((rows, length), np.int32) for name in DEVICE_ARRAYS}

        def loss(params):
            return objective.loss(params, batch, objective.totals(batch))[0]

        return jax.jit(jax.grad(loss)).lower(params).compile().memory_analysis().temp_size_in_bytes

    added_logits = (64 - 8) * length * vocab * 4
    assert temporary_bytes(64) - temporary_bytes(8) < added_logits / 8


@pytest.mark.parametrize(
    ("rows", "length", "count"), [(8, 2048, 1), (8, 512, 4), (6, 512, 3), (7, 512, 1), (2, 8192, 1)]
)
def test_chunks_divide_the_rows_and_keep_to_the_bytes(rows, length, count):
    assert head_passes._rows_per_chunk(rows, length, 32768) == count
