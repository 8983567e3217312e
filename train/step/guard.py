"""A step whose loss or gradient is not finite changes nothing: not the weights, not the optimizer's state."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from oddsmill.train.step.batch_rules import Batch
from oddsmill.train.step.step import State

Step = Callable[[State, Batch, Any], tuple[State, dict[str, jax.Array]]]


def guarded(step_fn: Step, *, max_skipped_steps: int) -> Step:
    """Returns `step_fn` on a state that also holds `skipped`, an int32 count of steps that were not finite.

    The host learns of such a step when the next is under way already. So that it can show the weights at which
    it happened, nothing changes any more once more than `max_skipped_steps` were skipped.

    The metrics of the step hold `skipped_steps` too, the count after it.
    """

    def step(state: State, batch: Batch, frozen: Any = None) -> tuple[State, dict[str, jax.Array]]:
        before = {name: leaf for name, leaf in state.items() if name != "skipped"}
        after, metrics = step_fn(before, batch, frozen)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        taken = finite & (state["skipped"] <= max_skipped_steps)
        kept = jax.tree.map(lambda new, old: jnp.where(taken, new, old), after, before)
        skipped = state["skipped"] + ~finite
        return {**kept, "skipped": skipped}, {**metrics, "skipped_steps": skipped}

    return step
