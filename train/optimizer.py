"""AdamW by Optax, its schedule, and the global-norm clip in front of it."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from train.config import TrainConfig


def learning_rate_schedule(config: TrainConfig, num_steps: int) -> Callable[[Any], Any]:
    """Learning rate of a step, counted from 0: linear warmup from zero, then linear decay to `learning_rate_end`.

    Takes a Python number (exact, for the logs) or a traced array (inside the step) alike. As in transformers,
    the rate at step i is peak * i / warmup, then falls to its end at step `num_steps`, which is never taken.
    """
    peak, end, warmup = config.peak_learning_rate, config.learning_rate_end, config.warmup_steps

    def at(step: Any) -> Any:
        warming = step < warmup
        rising = peak * step / max(warmup, 1)
        falling = end + (peak - end) * (num_steps - step) / max(num_steps - warmup, 1)
        return warming * rising + (1 - warming) * falling

    return at


def decay_mask(params: dict[str, Any]) -> dict[str, Any]:
    """True for the weights that decay: all but norms and biases, as in transformers."""
    return unflatten_dict(
        {path: not (path[-1] == "bias" or any("norm" in part for part in path)) for path in flatten_dict(params)}
    )


def make_optimizer(config: TrainConfig, num_steps: int) -> optax.GradientTransformation:
    """Clip, then AdamW: p <- p (1 - lr wd) - lr m_hat / (sqrt(v_hat) + epsilon)."""
    schedule = learning_rate_schedule(config, num_steps)
    clip = optax.clip_by_global_norm(config.max_grad_norm) if config.max_grad_norm else optax.identity()
    return optax.chain(
        clip,
        optax.adamw(
            lambda count: schedule(count.astype("float32")) if isinstance(count, jax.Array) else schedule(count),
            b1=config.adam_beta1,
            b2=config.adam_beta2,
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay,
            mask=decay_mask,
        ),
    )
