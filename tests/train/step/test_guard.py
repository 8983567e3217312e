"""A step that is not finite leaves weights and optimizer state bit for bit as they were."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oddsmill.train.step.guard import guarded
from oddsmill.train.step.rounding import apply_updates


def toy_step(state, batch, frozen):
    """Adds the batch to the weights, which are rounded at random; its loss and gradient norm are given."""
    updates = jnp.full(state["params"].shape, batch["x"])
    after = {
        "params": apply_updates(state["params"], updates, seed=0, step=state["step"]),
        "opt_state": (state["opt_state"][0] + 1,),
        "step": state["step"] + 1,
    }
    return after, {"loss": batch["loss"], "grad_norm": batch["grad_norm"]}


def batch(loss=1.0, grad_norm=1.0):
    return {"x": jnp.float32(0.001), "loss": jnp.float32(loss), "grad_norm": jnp.float32(grad_norm)}


def fresh():
    return {
        "params": jnp.ones(99, jnp.bfloat16),
        "opt_state": (jnp.int32(0),),
        "step": jnp.int32(0),
        "skipped": jnp.int32(0),
    }


def run(batches, max_skipped_steps):
    step = jax.jit(guarded(toy_step, max_skipped_steps=max_skipped_steps))
    state, states, counts = fresh(), [], []
    for one in batches:
        state, metrics = step(state, one)
        states.append(jax.device_get(state))
        counts.append(int(metrics["skipped_steps"]))
    return states, counts


@pytest.mark.parametrize("bad", [{"loss": np.nan}, {"loss": np.inf}, {"grad_norm": np.nan}, {"grad_norm": np.inf}])
def test_a_skipped_step_changes_nothing_but_the_count(bad):
    states, counts = run([batch(), batch(**bad), batch()], max_skipped_steps=1)
    assert counts == [0, 1, 1]
    for name in ("params", "opt_state", "step"):
        assert all(map(np.array_equal, jax.tree.leaves(states[1][name]), jax.tree.leaves(states[0][name])))
    # And the run goes on as if the batch had never been, by the same noise.
    without = run([batch(), batch()], max_skipped_steps=1)[0]
    np.testing.assert_array_equal(states[2]["params"], without[1]["params"])


def test_after_one_too_many_nothing_changes_any_more_so_that_the_weights_can_be_looked_at():
    bad = batch(loss=np.nan)
    states, counts = run([batch(), bad, bad, batch(), batch()], max_skipped_steps=1)
    assert counts == [0, 1, 2, 2, 2]
    for state in states[1:]:
        np.testing.assert_array_equal(state["params"], states[0]["params"])
