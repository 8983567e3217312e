"""What XLA makes of a step: no array of all tokens by the vocabulary, none of all scores of a row, no more memory than
a formula says, the state in place, nothing moved between host and devices but the batch, no wide matrix products.
"""

import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from oddsmill.train.attention.choice import MECHANISMS
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.loader import DEVICE_ARRAYS, train_batches
from oddsmill.train.loss import head_passes
from oddsmill.train.model.decoder import Decoder
from oddsmill.train.model.hf_config import parse_config
from oddsmill.train.parallel.sharding import put_on_mesh, shard_bytes
from oddsmill.train.planning.figures import batch_shapes, compile_step
from oddsmill.train.prepare import prepare
from oddsmill.train.step.step import train_step
from tests.datasets import packed, random_pairs, write_dataset
from tests.train.assembled import assembled
from tests.train.decoders import TINY, batch_of, objective_of

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


@pytest.fixture
def one_row_a_chunk(monkeypatch):
    monkeypatch.setattr(head_passes, "CHUNK_BYTES", 1)


def compiled(rows, length, attn_mechanism="xla"):
    """The step of a batch [rows, length], as it is donated and compiled in a run."""
    config = parse_config(MODEL, path="test")[0]
    definition, weights = nnx.split(
        nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), remat=True, attn_mechanism=MECHANISMS[attn_mechanism]))
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


def test_no_array_of_all_tokens_by_the_vocabulary_and_none_of_all_scores_of_a_row(one_row_a_chunk):
    rows, length = 4, 512
    shapes = shapes_of(compiled(rows, length))
    by_vocabulary = {shape for shape in shapes if VOCAB_SIZE in shape}
    largest = max(int(np.prod(shape)) for shape in by_vocabulary)
    assert largest == length * VOCAB_SIZE  # the logits of one chunk, a row
    assert not [shape for shape in shapes if shape.count(length) >= 2]
    # Where they are asked for, this would see them.
    assert [shape for shape in shapes_of(compiled(rows, length, "vanilla")) if shape.count(length) >= 2]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_row(one_row_a_chunk):
    """The same 2,048 tokens as 8 rows, as 4, as 2: a longer row takes no more, where all scores at once take it all."""

    def temporary_bytes(attn_mechanism):
        programs = [compiled(rows, 2048 // rows, attn_mechanism) for rows in (8, 4, 2)]
        return [program.memory_analysis().temp_size_in_bytes for program in programs]

    blockwise, dense = temporary_bytes("xla"), temporary_bytes("vanilla")
    assert max(blockwise) < 1.05 * min(blockwise)
    assert dense[2] > 1.5 * dense[1] > 1.5**2 * dense[0]


# What a step holds is within this factor of state, gradients and saved activations by formula.
MEMORY_FACTOR = 1.25
WIDE = {**MODEL, "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4,
        "num_attention_heads": 8, "num_key_value_heads": 8}  # fmt: skip
DEEP = {**MODEL, "vocab_size": 512, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 16}


def memory_by_formula(step, model, policy, *, tokens):
    """State, gradients, and floats a token: of each layer what its policy saves, of one layer all, of the head the
    logits, what they are made from and their gradient (of all rows: so small a batch is one chunk).
    """
    hidden, inner = model["hidden_size"], model["intermediate_size"]
    key_value = hidden * model["num_key_value_heads"] // model["num_attention_heads"]
    everything = 8 * hidden + 2 * key_value + 5 * inner
    products = 3 * hidden + 2 * key_value + 2 * inner  # q, o and down; k and v; gate and up
    saved = {True: hidden, "dots_with_no_batch_dims_saveable": hidden + products, False: everything}[policy]
    floats = model["num_hidden_layers"] * saved + everything + 3 * model["vocab_size"]
    state = step.abstract_state
    return shard_bytes(state) + shard_bytes(state["params"]) + 4 * tokens * floats


@pytest.mark.slow
@pytest.mark.parametrize("policy", [True, "dots_with_no_batch_dims_saveable", False])
@pytest.mark.parametrize(("model", "rows", "length"), [(WIDE, 2, 512), (DEEP, 16, 1024)])
def test_memory_is_what_is_saved_by_formula(model, rows, length, policy):
    """For shapes whose parts differ: mostly head and one layer, or mostly what many layers save."""
    step = assembled(model, gradient_checkpointing=policy)
    sizes = compile_step(step, batch_shapes(step, rows=rows, row_length=length)).memory_analysis()
    held = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
    expected = memory_by_formula(step, model, policy, tokens=rows * length)
    assert expected / MEMORY_FACTOR < held < MEMORY_FACTOR * expected


def test_the_state_is_updated_in_place():
    """All of it: results that take no argument's place are the metrics, scalars."""
    step = assembled()
    sizes = compile_step(step, batch_shapes(step, rows=2, row_length=256)).memory_analysis()
    assert sizes.alias_size_in_bytes == shard_bytes(step.abstract_state)
    assert sizes.output_size_in_bytes - sizes.alias_size_in_bytes < 1024


def test_nothing_moves_between_host_and_devices_but_the_batch(tmp_path):
    """Steps as the loop takes them, under a guard that allows what is asked for and refuses what happens unasked."""
    rows = packed(random_pairs(np.random.default_rng(0), 60, vocab_size=TINY["vocab_size"]), 32)
    write_dataset(tmp_path / "data", {"train": rows}, row_length=32, vocab_size=TINY["vocab_size"])
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    config = TrainConfig(
        data=str(tmp_path / "data"), run_dir=str(tmp_path), model=ModelConfig(config=str(tmp_path / "config.json")),
        total_batch_size=2, gradient_accumulation_steps=2,
    )  # fmt: skip
    run = prepare(config)
    step_fn, (params, frozen) = run.program.jitted_step(), run.initial_weights()
    state, late = run.program.initial_state(params), None
    batches = train_batches(config.data, run.data.manifest, rows_per_step=config.rows_per_step, shuffle=True, seed=0)
    with jax.set_mesh(run.program.mesh), jax.transfer_guard("disallow"):
        for _ in range(4):
            batch = next(batches)
            arrays = {name: batch[name] for name in DEVICE_ARRAYS}
            state, metrics = step_fn(state, put_on_mesh(arrays, run.program.mesh), frozen)
            if late is not None:
                assert np.isfinite(jax.device_get(late)["loss"])
            late = metrics
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            step_fn(state, arrays, frozen)
    batches.close()


def equations(jaxpr):
    """All of a jaxpr, those inside other equations too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def wide_products(**settings):
    """Matrix products of float32 with float32 in the step, as (free dimensions of both sides) -> how many."""
    step = assembled(gradient_checkpointing=True, **settings)
    with jax.set_mesh(step.mesh):
        batch = batch_shapes(step, rows=2, row_length=256)
        traced = step.jitted_step().trace(step.abstract_state, batch, {})
    found, products = [], 0
    for equation in equations(traced.jaxpr.jaxpr):
        if equation.primitive.name == "dot_general":
            products += 1
            left, right = (variable.aval for variable in equation.invars)
            if left.dtype == right.dtype == jnp.float32:
                (contracted, _), (batched, _) = equation.params["dimension_numbers"]
                found.append((left.ndim - len(contracted) - len(batched), tuple(left.shape[dim] for dim in contracted)))
    return found, products


def test_matrix_products_of_a_bfloat16_step_take_bfloat16():
    """Read before XLA's compiler for CPUs, which has no bfloat16 products."""
    wide, products = wide_products(compute_dtype="bfloat16")
    assert not wide
    assert products > 20
    assert len(wide_products(compute_dtype="float32")[0]) > 20
