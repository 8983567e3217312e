"""Schedule and AdamW against their formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from schemas.errors import Refused
from train.config import FINE_TUNING_LEARNING_RATE, FROM_SCRATCH_LEARNING_RATE, ModelConfig, TrainConfig
from train.optimizer import decay_mask, learning_rate_schedule, make_optimizer


def config(**changes):
    return TrainConfig(**{"data": "d", "run_dir": "r", "model": ModelConfig(config="c"), **changes})


def test_schedule_by_hand():
    at = learning_rate_schedule(config(learning_rate=1.0, learning_rate_end=0.2, warmup_steps=4), 12)
    assert [at(step) for step in (0, 1, 2, 3, 4)] == [0, 0.25, 0.5, 0.75, 1.0]
    np.testing.assert_allclose([at(8), at(11), at(12)], [0.6, 0.3, 0.2])
    np.testing.assert_allclose(at(jnp.float32(8)), 0.6, rtol=1e-6)


def test_one_update_by_hand():
    """p (1 - lr wd) - lr g / (|g| + eps) in the first step, after the clip; norms do not decay."""
    settings = config(learning_rate=0.1, weight_decay=0.5, max_grad_norm=1.0, adam_epsilon=1e-3)
    optimizer = make_optimizer(settings, 10)
    params = {"mlp": {"weight": jnp.array([2.0])}, "norm": {"weight": jnp.array([2.0])}}
    gradients = {"mlp": {"weight": jnp.array([3.0])}, "norm": {"weight": jnp.array([4.0])}}
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    np.testing.assert_allclose(updates["mlp"]["weight"], -0.1 * (0.6 / 0.601 + 0.5 * 2.0), rtol=1e-5)
    np.testing.assert_allclose(updates["norm"]["weight"], -0.1 * 0.8 / 0.801, rtol=1e-5)


def test_norms_and_biases_do_not_decay():
    tree = {"layers": {"input_layernorm": {"weight": 0}, "q_proj": {"weight": 0, "bias": 0}}, "lm_head": {"weight": 0}}
    assert decay_mask(tree) == {
        "layers": {"input_layernorm": {"weight": False}, "q_proj": {"weight": True, "bias": False}},
        "lm_head": {"weight": True},
    }


def test_the_default_learning_rate_suits_the_start():
    assert config().peak_learning_rate == FROM_SCRATCH_LEARNING_RATE
    assert config(model=ModelConfig(path="p")).peak_learning_rate == FINE_TUNING_LEARNING_RATE
    assert config(learning_rate=3e-4).peak_learning_rate == 3e-4


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"total_batch_size": 0}, "--total_batch_size=0"),
        ({"beta": -1.0}, "--beta=-1"),
        ({"adam_beta2": 1.0}, "--adam_beta2"),
        ({"max_steps": 5, "warmup_steps": 5}, "--warmup_steps=5"),
        ({"learning_rate": 1e-6, "learning_rate_end": 1e-5}, "--learning_rate_end"),
        ({"seed": -1}, "--seed=-1"),
        ({"save_steps": 0}, "--save_steps=0"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(changes, named):
    with pytest.raises(Refused, match=named):
        config(**changes)


def test_exactly_one_model_is_needed():
    for given in ({}, {"path": "a", "config": "b"}):
        with pytest.raises(Refused, match=r"--model\.path"):
            ModelConfig(**given)
