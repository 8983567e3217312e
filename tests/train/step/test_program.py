"""The step of a run as a program: which weights it trains, and how a run begins."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from oddsmill.schemas.errors import Refused
from oddsmill.train.attention.splash import SPLASH
from oddsmill.train.config.model import LoraConfig, ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.model.frozen import join_params
from oddsmill.train.model.lora import is_adapter
from oddsmill.train.parallel.sharding import shard_bytes
from oddsmill.train.step.program import build_program, check_row_length
from oddsmill.train.weights.huggingface import save_params
from tests.train.assembled import assembled
from tests.train.decoders import TINY, decoder_config, split_decoder

WEIGHTS = split_decoder(decoder_config(), jnp.bfloat16)[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder of bfloat16 weights."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(TINY))
    save_params(WEIGHTS, folder, num_layers=TINY["num_hidden_layers"])
    return folder


def program(model, *, is_random=False, **settings):
    chosen = ModelConfig(config=str(model / "config.json")) if is_random else ModelConfig(path=str(model))
    config = TrainConfig(data="d", run_dir="r", model=chosen, **settings)
    return build_program(config, decoder_config(), model_path=model, max_pairs=4, row_lengths=[32], num_steps=3)


def shapes(tree):
    return {path: (leaf.shape, leaf.dtype) for path, leaf in flatten_dict(tree).items()}


@pytest.mark.parametrize(
    ("settings", "has_frozen"),
    [({}, False), ({"frozen_parameters": ["embed_tokens"]}, True), ({"lora": LoraConfig(rank=2)}, True)],
)
def test_a_run_begins_with_the_stored_weights_trained_and_frozen_as_the_shapes_say(model, settings, has_frozen):
    step = program(model, **settings)
    params, frozen = step.initial_weights(0, model)
    assert step.has_frozen_weights == has_frozen == bool(frozen)
    assert shapes(join_params(params, frozen)) == shapes(step.abstract_model)
    assert set(flatten_dict(frozen)) == step.frozen_paths
    # Frozen weights stay as they are stored, trained ones are kept in param_dtype.
    assert {leaf.dtype for leaf in jax.tree.leaves(frozen)} <= {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    stored, expected = flatten_dict(join_params(params, frozen)), flatten_dict(WEIGHTS)
    assert set(flatten_dict(step.stored_weights)) == {path for path in stored if not is_adapter(path)} == set(expected)
    for path, weight in expected.items():
        np.testing.assert_array_equal(stored[path].astype(jnp.float32), weight.astype(jnp.float32))


def test_random_weights_follow_from_the_seed(model):
    step = program(model, is_random=True)
    first, again, other = (jax.tree.leaves(step.initial_weights(seed, None)[0]) for seed in (3, 3, 4))
    assert all(map(np.array_equal, first, again)) and not all(map(np.array_equal, first, other))
    narrow = program(model, is_random=True, param_dtype="bfloat16").initial_weights(3, None)[0]
    assert all(map(np.array_equal, jax.tree.leaves(narrow), [leaf.astype(jnp.bfloat16) for leaf in first]))


def test_the_state_of_step_0_is_what_the_step_takes(model):
    step = program(model)
    state = step.initial_state(step.initial_weights(0, model)[0])
    found = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), state)
    assert found == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), step.abstract_state)
    assert int(state["step"]) == int(state["skipped"]) == 0


def test_rows_that_are_longer_than_a_window_which_the_mechanism_lacks_are_refused(model):
    """Splash has no windows; it may be the mechanism of a run whose rows no window cuts."""
    splash = dataclasses.replace(program(model), attn_mechanism=SPLASH)
    config = TrainConfig(data="d", run_dir="r", model=ModelConfig(path=str(model)))
    windowed = dataclasses.replace(decoder_config(), windows=(64,) * decoder_config().num_hidden_layers)
    check_row_length(splash, config, windowed, 64, data="rows")
    with pytest.raises(Refused, match="rows: splash, the attention of the run, cannot take its rows of 65: it has no"):
        check_row_length(splash, config, windowed, 65, data="rows")


def test_a_parameter_takes_the_bytes_that_the_docs_say():
    """Of weight and optimizer state, as `train plan` counts them; moments are float32 beside weights in bfloat16."""
    model = {
        **TINY,
        "vocab_size": 512,
        "hidden_size": 512,
        "intermediate_size": 1024,
    }  # large enough for Adafactor to factor
    page = (Path(__file__).parents[3] / "docs/howto/plan_a_run.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\d) \| (\d) \| (\d) \| (\d+) \|$", page, re.MULTILINE)
    assert len(rows) == 10
    for dtype, optim, *documented in rows:
        state = assembled(model, param_dtype=dtype, optim=optim).abstract_state
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state["params"]))
        weight, moments = (round(shard_bytes(state[part]) / parameters, 1) for part in ("params", "opt_state"))
        assert [*map(int, documented)] == [weight, moments, weight, 2 * weight + moments], (dtype, optim)
