"""The fused head equals the dense one, in value and in every gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
from train import head
from train.data import DEVICE_ARRAYS


@pytest.mark.parametrize("nll_scope", ["full", "response"])
@pytest.mark.parametrize("rows", [1, 2, 4], ids=["row by row", "two rows", "all at once"])
def test_fused_head_equals_dense_logits(nll_scope, rows, monkeypatch):
    monkeypatch.setattr(head, "CHUNK_BYTES", rows * 32 * VOCAB_SIZE * 4)
    with jax.enable_x64(True):
        pairs = random_pairs(np.random.default_rng(1), 12, vocab_size=VOCAB_SIZE)
        batch = batch_of(packed(pairs, 32)[:4], 32)
        definition, params = split_decoder(decoder_config(), jnp.float64)
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


def test_no_array_of_all_positions_by_the_vocabulary_exists(monkeypatch):
    """Compiled memory grows by far less than the logits of the rows that are added to a batch."""
    vocab, length = 16384, 128
    monkeypatch.setattr(head, "CHUNK_BYTES", 1)
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
    assert head._rows_per_chunk(rows, length, 32768) == count
