"""Schedules and optimizers against their formulas."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.step.optimizer import decay_mask, learning_rate_schedule, make_optimizer


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


def rates(steps, num_steps, **changes):
    at = learning_rate_schedule(config(learning_rate=1.0, **changes), num_steps)
    return [at(step) for step in steps]


def test_schedules_by_hand():
    """The formulas of transformers' get_…_schedule_with_warmup; the end of cosine as in its cosine_with_min_lr."""
    cosine = {"lr_scheduler_type": "cosine", "warmup_steps": 2}
    np.testing.assert_allclose(rates((0, 1, 2, 4, 6, 10), 10, **cosine), [0, 0.5, 1, (1 + 0.5**0.5) / 2, 0.5, 0])
    np.testing.assert_allclose(rates((2, 6, 10), 10, **cosine, learning_rate_end=0.2), [1, 0.6, 0.2])
    inverse = {"lr_scheduler_type": "inverse_sqrt"}
    np.testing.assert_allclose(rates((0, 2, 4, 16, 100), 200, **inverse, warmup_steps=4), [0, 0.5, 1, 0.5, 0.2])
    np.testing.assert_allclose(rates((0, 10_000, 30_000), 40_000, **inverse), [1, 0.5**0.5, 0.5])
    constant = {"lr_scheduler_type": "constant", "warmup_steps": 2}
    np.testing.assert_allclose(rates((0, 1, 2, 9), 10, **constant), [0, 0.5, 1, 1])
    # A ratio is of the whole run, rounded up: 3 of 11 steps.
    np.testing.assert_allclose(rates((0, 1, 2, 3), 11, **{**constant, "warmup_steps": 0}, warmup_ratio=0.2)[1], 1 / 3)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_schedules_equal_optax_and_their_traced_selves(kind):
    settings = config(learning_rate=3e-4, learning_rate_end=1e-5, lr_scheduler_type=kind, warmup_steps=7)
    at = learning_rate_schedule(settings, 50)
    optax_schedule = {
        "linear": optax.warmup_constant_schedule(0.0, 3e-4, 7),
        "cosine": optax.warmup_cosine_decay_schedule(0.0, 3e-4, 7, 50, 1e-5),
    }[kind]
    if kind == "linear":
        optax_schedule = optax.join_schedules([optax_schedule, optax.linear_schedule(3e-4, 1e-5, 43)], [7])
    steps = np.arange(51)
    np.testing.assert_allclose([at(int(step)) for step in steps], jax.vmap(optax_schedule)(steps), rtol=1e-5)
    np.testing.assert_allclose([at(int(step)) for step in steps], at(jnp.arange(51.0)), rtol=1e-5)


def two_updates(optimizer, params, gradients):
    state = optimizer.init(params)
    step = jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def weights(value):
    """A stacked layer's weight and norm, and a table; every element `value`."""
    full = partial(jnp.full, fill_value=value)
    return {"layers": {"mlp": {"weight": full((2, 3, 4))}, "norm": {"weight": full((2, 4))}}, "lm_head": full((5, 4))}


@pytest.mark.parametrize(
    ("optim", "changes", "second"),
    [
        ("sgd", {}, lambda g1, g2: g2),
        ("lion", {"adam_beta1": 0.9, "adam_beta2": 0.5}, lambda g1, g2: np.sign(0.9 * 0.5 * g1 + 0.1 * g2)),
        ("adafactor", {}, lambda g1, g2: g2 / np.sqrt(2**-0.8 * g2**2 + (1 - 2**-0.8) * g1**2)),
    ],
)
def test_two_steps_of_every_other_optimizer_by_hand(optim, changes, second):
    """Constant learning rate 0.1, weight decay 0.5: p (1 - 0.05) - 0.1 u, a norm p - 0.1 u, twice.

    u is the gradient's sign in the first step, but of sgd, and what `second` says in the second.
    """
    g1, g2 = 0.3, -0.2
    settings = config(
        optim=optim, lr_scheduler_type="constant", learning_rate=0.1, weight_decay=0.5, max_grad_norm=None, **changes
    )
    params = two_updates(make_optimizer(settings, 10), weights(2.0), [weights(g1), weights(g2)])
    u1, u2 = g1 if optim == "sgd" else np.sign(g1), second(g1, g2)
    decayed = (2.0 * 0.95 - 0.1 * u1) * 0.95 - 0.1 * u2
    np.testing.assert_allclose(params["layers"]["mlp"]["weight"], decayed, rtol=1e-5)
    np.testing.assert_allclose(params["lm_head"], decayed, rtol=1e-5)
    np.testing.assert_allclose(params["layers"]["norm"]["weight"], 2.0 - 0.1 * (u1 + u2), rtol=1e-5)


def test_adafactor_scales_every_layer_by_itself():
    """Stacked layers give what each gives alone: statistics are factored and clipped a layer, not over the stack."""
    settings = config(optim="adafactor", learning_rate=0.1, max_grad_norm=None)
    rng = np.random.default_rng(0)
    shape = (2, 130, 140)  # large enough that Optax factors
    params, first, second = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(3))
    second = second.at[0].multiply(100.0)  # clipped in the first layer alone
    gradients = [{"layers": {"weight": gradient}} for gradient in (first, second)]
    stacked = two_updates(make_optimizer(settings, 10), {"layers": {"weight": params}}, gradients)["layers"]["weight"]
    for layer in range(2):
        alone = two_updates(
            make_optimizer(settings, 10), {"weight": params[layer]}, [{"weight": g[layer]} for g in (first, second)]
        )["weight"]
        np.testing.assert_allclose(stacked[layer], alone, rtol=1e-4, atol=1e-5)


def test_moments_in_bfloat16_do_not_stand_still():
    """A second moment that falls by a thousandth a step: rounded to the nearest it would never move."""
    exact, narrow = (make_optimizer(config(optim=name, learning_rate=1e-3), 400) for name in ("adamw", "adamw_bf16"))
    params = {"lm_head": {"weight": jnp.ones((64, 64))}}
    large, small = ({"lm_head": {"weight": jnp.full((64, 64), value)}} for value in (1e-3, 1e-5))

    def second_moment(optimizer):
        state = optimizer.init(params)
        _, state = optimizer.update(large, state, params)
        state, _ = jax.lax.scan(lambda s, _: (optimizer.update(small, s, params)[1], None), state, length=300)
        return next(
            leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state) if ".nu" in jax.tree_util.keystr(path)
        )

    wide, stored = second_moment(exact), second_moment(narrow)
    assert stored.dtype == jnp.bfloat16 and wide.dtype == jnp.float32
    assert float(wide.mean()) < 0.78e-9  # it began at 1e-9
    np.testing.assert_allclose(float(stored.astype(jnp.float32).mean()), float(wide.mean()), rtol=5e-3)
