"""A step whose loss or gradient is not finite changes nothing: not the weights, not the optimizer's state."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from oddsmill.train.data.data_order import WORDS, total_words
from oddsmill.train.parallel.stop_requests import WISH
from oddsmill.train.step.batch_rules import Batch
from oddsmill.train.step.step import State

Step = Callable[[State, Batch, Any], tuple[State, dict[str, jax.Array]]]


def guarded(step_fn: Step, *, max_skipped_steps: int) -> Step:
    """`step_fn` on a state that also holds `skipped`, an int32 count of steps that were not finite.

    The host learns of such a step when the next is under way already. So that it can show the weights at which
    it happened, nothing changes any more once more than `max_skipped_steps` were skipped.

    Returns: a step whose metrics hold `skipped_steps` too, the count after it; and, where the batch holds wishes
      of the processes ([B] int32), `wish`, the greatest of them, and where it holds words of the data order ([B, 2]
      uint32), `data_order`, their sum.
    """

    def step(state: State, batch: Batch, frozen: Any = None) -> tuple[State, dict[str, jax.Array]]:
        before = {name: leaf for name, leaf in state.items() if name != "skipped"}
        rows = {name: array for name, array in batch.items() if name not in (WISH, WORDS)}
        after, metrics = step_fn(before, rows, frozen)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        taken = finite & (state["skipped"] <= max_skipped_steps)
        # A state keeps its dtypes: a gradient wider than its weight makes Optax widen the moments, and a checkpoint,
        # which is read back as the run began, would then not be what was saved.
        kept = jax.tree.map(lambda new, old: jnp.where(taken, new.astype(old.dtype), old), after, before)
        skipped = state["skipped"] + ~finite
        metrics = {**metrics, "skipped_steps": skipped}
        # With the step's own collectives: one more between two steps would make the device wait for the host.
        if WISH in batch:
            metrics[WISH] = jnp.max(batch[WISH])
        if WORDS in batch:
            metrics[WORDS] = total_words(batch[WORDS])
        return {**kept, "skipped": skipped}, metrics

    return step
