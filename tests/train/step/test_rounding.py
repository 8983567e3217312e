"""Weights in bfloat16 learn as those in float32 do, on average; what is rounded goes to a neighbour, without a bias."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import oddsmill.train.step.optimizer
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.step.optimizer import make_optimizer
from oddsmill.train.step.rounding import apply_updates, in_float32, round_at_random
from tests.train.fake_devices import fake_devices

ROOT = Path(__file__).parents[3]
KEY = jax.random.key(0)
OPTIMIZERS = ("adamw", "adamw_bf16", "lion", "adafactor", "sgd")


def bits_of(array):
    return np.asarray(array).view(np.uint16 if array.dtype == jnp.bfloat16 else np.uint32).astype(np.int64)


@pytest.mark.parametrize("exact", [1 + 2**-9, 0.3, 1 - 2**-12, 3e38, 1e-30, 1.1e-38, 5e-39, 2.0**-149, 3 * 2.0**-135])
def test_a_number_goes_to_one_of_its_two_neighbours_and_is_right_on_average(exact):
    """Also beside a power of two, near the largest number and among the subnormals. Within four standard errors."""
    draws = 20_000
    exact = np.float32(exact)
    below = int(exact.view(np.uint32)) >> 16  # the neighbour of the smaller magnitude, by its bits
    share_up = (int(exact.view(np.uint32)) & 0xFFFF) / 2**16
    plus, minus = (bits_of(round_at_random(KEY, jnp.full(draws, sign * exact))) for sign in (1, -1))
    assert set(plus) <= {below, below + 1}
    assert (plus == minus - 0x8000).all()
    error = (share_up * (1 - share_up) / draws) ** 0.5
    assert abs((plus > below).mean() - share_up) <= 4 * error


def test_what_bfloat16_holds_stays_and_nan_stays_nan():
    """All 65,536 bit patterns: zeros of both signs, subnormals and infinities among them."""
    held = np.arange(2**16, dtype=np.uint32) << 16
    found = round_at_random(KEY, jnp.asarray(held.view(np.float32)))
    is_nan = np.isnan(held.view(np.float32))
    np.testing.assert_array_equal(bits_of(found)[~is_nan], (held >> 16)[~is_nan])
    assert np.isnan(np.asarray(found, np.float32)[is_nan]).all()
    # NaN whose lowest bits are set: a carry would make it a number, and cutting them off infinity.
    others = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFF80FFFF], np.uint32).view(np.float32)
    assert np.isnan(np.asarray(round_at_random(KEY, jnp.asarray(others)), np.float32)).all()


def test_what_is_not_in_bfloat16_is_added_as_by_optax():
    params = {"a": jnp.float32(0.1), "b": jnp.float32(1.0)}
    updates = {"a": jnp.float32(1e-9), "b": jnp.float32(1e-3)}
    applied = partial(apply_updates, seed=0, step=jnp.int32(3))
    program = str(jax.make_jaxpr(lambda p, u: applied(p, u))(params, updates))
    assert program == str(jax.make_jaxpr(optax.apply_updates)(params, updates))  # and not one draw more


def test_the_noise_is_another_at_each_step_seed_and_weight_and_the_same_when_asked_again():
    params = {name: jnp.ones(4096, jnp.bfloat16) for name in "ab"}
    updates = {name: jnp.full(4096, 1e-3) for name in "ab"}

    def after(seed, step):
        found = apply_updates(params, updates, seed=seed, step=jnp.int32(step))
        return [tuple(bits_of(found[name])) for name in "ab"]

    first = [*after(0, 0), *after(0, 1), *after(1, 0)]
    assert len(set(first)) == 6
    assert first == [*after(0, 0), *after(0, 1), *after(1, 0)]
    # Two draws agree as often as chance has it: 1e-3 is 0.128 of the step between the neighbours.
    agree = np.mean(np.array(first[0]) == np.array(first[1]))
    assert abs(agree - (0.128**2 + 0.872**2)) < 4 * (0.78 * 0.22 / 4096) ** 0.5


def test_the_noise_of_weights_is_not_that_of_moments():
    """Both are drawn by the same seed and step; were the draws the same, a moment and its weight would err together."""
    moments = make_optimizer(config("adamw_bf16"), 10)
    params = {"a": jnp.full(4096, 1.0, jnp.bfloat16)}
    gradient = {"a": jnp.full(4096, 0.03)}
    mu = next(leaf for leaf in jax.tree.leaves(moments.update(gradient, moments.init(params), params)[1]) if leaf.ndim)
    moved = apply_updates(params, {"a": jnp.full(4096, 2.0**-8)}, seed=0, step=jnp.int32(0))["a"]
    up = [np.asarray(values > values.min()) for values in (mu, moved)]
    assert 0.05 < up[0].mean() < 0.95 and 0.45 < up[1].mean() < 0.55
    assert abs(np.corrcoef(*up)[0, 1]) < 0.07  # four standard errors


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from oddsmill.train.config.devices import MeshConfig
from oddsmill.train.parallel.sharding import make_mesh
from oddsmill.train.step.rounding import apply_updates
assert jax.config.jax_threefry_partitionable
params = {"w": jnp.linspace(-1, 1, 4096).reshape(2, 64, 32).astype(jnp.bfloat16), "n": jnp.ones(64, jnp.bfloat16)}
updates = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 1e-3), params)
found = []
for axes in (MeshConfig(data=4), MeshConfig(fsdp=4), MeshConfig(fsdp=2, tensor=2)):
    mesh = make_mesh(axes)
    specs = {"w": PartitionSpec(None, "tensor", "fsdp"), "n": PartitionSpec()}
    places = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}
    step = jax.jit(lambda p, u: apply_updates(p, u, seed=3, step=jnp.int32(5)), out_shardings=places)
    compiled = step.lower(*(jax.device_put(tree, places) for tree in (params, updates))).compile()
    assert "all-gather" not in compiled.as_text()  # every device draws its own part
    found.append(compiled(*(jax.device_put(tree, places) for tree in (params, updates))))
found.append(apply_updates(params, updates, seed=3, step=jnp.int32(5)))
for name in params:
    assert len({np.asarray(each[name]).tobytes() for each in found}) == 1, name
    assert (found[0][name] != params[name]).any()
"""


def test_the_bits_are_the_same_on_every_mesh():
    command = [sys.executable, "-c", SHARDED]
    done = subprocess.run(command, cwd=ROOT, env=fake_devices(4), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def config(optim):
    return TrainConfig(
        data="d", run_dir="r", model=ModelConfig(config="c"), optim=optim, weight_decay=1.0, max_grad_norm=None
    )  # fmt: skip


def weights(dtype):
    """Of the sizes that fine-tuning has: a matrix of 0.01, large enough for Adafactor to factor, and norms of 1."""
    matrix, head = (0.01 * jax.random.normal(key, (1, 128, 128)) for key in jax.random.split(KEY))
    tree = {"layers": {"mlp": {"weight": matrix}, "norm": {"weight": jnp.ones((1, 16))}}, "lm_head": head[0, :16, :16]}
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(dtype), tree)


def change(optim, dtype, gradient_scale, *, steps=100):
    """The change of every weight after so many steps, all in one vector; the gradients are the same for any dtype."""
    optimizer, start = make_optimizer(config(optim), steps), weights(dtype)
    mean = jax.tree.map(lambda leaf: gradient_scale * jax.random.normal(jax.random.key(7), leaf.shape), start)

    def one_step(carry, step):
        params, state = carry
        gradients = jax.tree.map(lambda leaf: (leaf * (1 + 0.5 * jnp.cos(step))).astype(dtype), mean)
        updates, state = optimizer.update(gradients, state, params)
        return (apply_updates(params, updates, seed=0, step=step), state), None

    end = jax.lax.scan(one_step, (start, optimizer.init(start)), jnp.arange(steps))[0][0]
    changes = jax.tree.map(jnp.subtract, in_float32(end), in_float32(start))
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(changes)])


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_the_mean_update_is_that_of_float32(optim, monkeypatch):
    """How far 17,000 weights in bfloat16 go along the way of those in float32: as far. At 1e-7 the noise has a standard
    error of 2 %. In the last case all gradients are zero, and the decay alone moves a weight, by 1e-4 of it a step.
    """

    def moved(case):
        rate, gradient_scale = case
        # The rate is an argument, so that one program is compiled for all.
        monkeypatch.setattr(oddsmill.train.step.optimizer, "learning_rate_schedule", lambda *_: lambda step: rate)
        narrow, wide = (change(optim, dtype, gradient_scale) for dtype in (jnp.bfloat16, jnp.float32))
        return jnp.vdot(narrow, wide) / jnp.vdot(wide, wide)

    cases = jnp.array([(1e-7, 1.0), (1e-4, 1.0), (1e-4, 0.0)])
    found = jax.jit(partial(jax.lax.map, moved))(cases)
    np.testing.assert_allclose(found, 1, atol=0.05)


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_a_step_of_weights_in_bfloat16_keeps_its_dtypes_and_computes_in_float32(optim):
    """Moments are float32, but for those that adamw_bf16 narrows; a checkpoint holds what the run began with."""
    optimizer, params = make_optimizer(config(optim), 10), weights(jnp.bfloat16)

    def step(params, state):
        updates, state = optimizer.update(params, state, params)
        return apply_updates(params, updates, seed=0, step=jnp.int32(0)), state, updates

    before = jax.eval_shape(optimizer.init, params)
    after, state, updates = jax.eval_shape(step, params, before)
    dtypes = partial(jax.tree.map, lambda leaf: leaf.dtype)
    assert dtypes(after) == dtypes(params) and dtypes(state) == dtypes(before)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(jnp.float32)}
    floats = {
        leaf.dtype for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size > 1
    }
    expected = {"adamw_bf16": {jnp.dtype(jnp.bfloat16)}, "sgd": set()}.get(optim, {jnp.dtype(jnp.float32)})
    assert floats == expected
