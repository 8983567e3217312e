"""What XLA makes of a step: no array of all tokens by the vocabulary, none of all scores of a row."""

import re
from functools import partial

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from tests.datasets import packed, random_pairs
from tests.train.decoders import batch_of, objective_of
from train import head
from train.hf_config import parse_config
from train.model import Decoder
from train.step import train_step

VOCAB_SIZE, HEADS = 1500, 2
MODEL = {
    "model_type": "llama",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 1,
}


@pytest.fixture(autouse=True)
def one_row_a_chunk(monkeypatch):
    monkeypatch.setattr(head, "CHUNK_BYTES", 1)


def compiled(rows, length, attn_mechanism="auto"):
    """The step of a batch [rows, length], as it is donated and compiled in a run."""
    config = parse_config(MODEL, path="test")[0]
    definition, weights = nnx.split(
        nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), remat=True, attn_mechanism=attn_mechanism))
    )
    params = nnx.to_pure_dict(weights)
    optimizer = optax.adamw(1e-3)
    state = {"params": params, "opt_state": jax.eval_shape(optimizer.init, params), "step": np.int32(0)}
    pairs = packed(random_pairs(np.random.default_rng(0), rows, vocab_size=VOCAB_SIZE), length)[:1] * rows
    batch = batch_of(pairs, length, VOCAB_SIZE)
    objective = objective_of(definition, beta=0.1, nll_scope="full", max_pairs=8)
    step = partial(train_step, objective=objective, optimizer=optimizer, micro_batches=1)
    return jax.jit(step, donate_argnums=0).lower(state, batch).compile()


def shapes_of(program):
    """The shapes of all arrays in it."""
    found = re.findall(r"\b(?:pred|[fsu]\d+|bf16)\[([\d,]+)\]", program.as_text())
    return {tuple(map(int, shape.split(","))) for shape in found}


def test_no_array_of_all_tokens_by_the_vocabulary_and_none_of_all_scores_of_a_row():
    rows, length = 4, 512
    shapes = shapes_of(compiled(rows, length))
    by_vocabulary = {shape for shape in shapes if VOCAB_SIZE in shape}
    largest = max(int(np.prod(shape)) for shape in by_vocabulary)
    assert largest == length * VOCAB_SIZE  # the logits of one chunk, a row
    assert not [shape for shape in shapes if shape.count(length) >= 2]
    # Where they are asked for, this would see them.
    assert [shape for shape in shapes_of(compiled(rows, length, "vanilla")) if shape.count(length) >= 2]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_row():
    """The same 2,048 tokens as 8 rows, as 4, as 2: a longer row takes no more, where all scores at once take it all."""

    def temporary_bytes(attn_mechanism):
        programs = [compiled(rows, 2048 // rows, attn_mechanism) for rows in (8, 4, 2)]
        return [program.memory_analysis().temp_size_in_bytes for program in programs]

    blockwise, dense = temporary_bytes("auto"), temporary_bytes("vanilla")
    assert max(blockwise) < 1.05 * min(blockwise)
    assert dense[2] > 1.5 * dense[1] > 1.5**2 * dense[0]
