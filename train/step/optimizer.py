"""The optimizers and their learning rates, all by Optax, and the global-norm clip in front of them."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from oddsmill.train.config.train_config import RunSettings
from oddsmill.train.step.rounding import computed_in_float32, in_float32, round_at_random

# With no warmup, transformers' timescale of inverse_sqrt: after so many steps the rate has fallen to 1 / sqrt(2).
INVERSE_SQRT_TIMESCALE = 10_000


def num_warmup_steps(config: RunSettings, num_steps: int) -> int:
    """Returns the steps of the warmup; a ratio is of the whole run, rounded up as in transformers."""
    return config.warmup_steps or math.ceil(config.warmup_ratio * num_steps)


def learning_rate_schedule(config: RunSettings, num_steps: int) -> Callable[[Any], Any]:
    """Returns the learning rate of a step, counted from 0: linear warmup to the peak, then `lr_scheduler_type`.

    Takes a Python number (exact, for the logs) or a traced array (inside the step) alike. The rate at step i of a
    warmup of w is peak * i / w. After it, with x = (i - w) / (num_steps - w):

        linear        end + (peak - end) (1 - x)        reaches its end at step `num_steps`, which is never taken
        cosine        end + (peak - end) (1 + cos(pi x)) / 2
        inverse_sqrt  peak sqrt(w / i); without a warmup peak sqrt(10000 / (i + 10000))
        constant      peak

    Source: transformers' get_linear_, get_cosine_, get_inverse_sqrt_ and get_constant_schedule_with_warmup; with an
    end, its cosine_with_min_lr.
    """
    peak, end = config.peak_learning_rate, config.learning_rate_end
    warmup = num_warmup_steps(config, num_steps)
    length, timescale = max(num_steps - warmup, 1), warmup or INVERSE_SQRT_TIMESCALE

    def at(step: Any) -> Any:
        is_traced = isinstance(step, jax.Array)
        xp = jnp if is_traced else np
        after = xp.maximum(step - warmup, 0)
        match config.lr_scheduler_type:
            case "linear":
                share = 1 - after / length
            case "cosine":
                share = (1 + xp.cos(xp.pi * after / length)) / 2
            case "inverse_sqrt":
                share = xp.sqrt(timescale / (after + timescale))
            case "constant":
                share = 1
        rate = xp.where(step < warmup, peak * step / max(warmup, 1), end + (peak - end) * share)
        return rate if is_traced else float(rate)

    return at


def decay_mask(params: dict[str, Any]) -> dict[str, Any]:
    """Returns True for the weights that decay: all but norms and biases, as in transformers."""
    return unflatten_dict(
        {path: not (path[-1] == "bias" or any("norm" in part for part in path)) for path in flatten_dict(params)}
    )


def make_optimizer(config: RunSettings, num_steps: int) -> optax.GradientTransformation:
    """Returns the optimizer: it clips, then applies `optim`. A weight that decays first becomes p (1 - lr wd).

    Then, with u the clipped gradient: adamw p - lr m_hat / (sqrt(v_hat) + epsilon); lion p - lr sign(m);
    sgd p - lr u; adafactor p - lr u / sqrt(v), v factored, at most of RMS 1 a weight and layer.

    It computes in float32 whatever the weights are kept in, and keeps all but the moments of adamw_bf16 in float32.
    """
    schedule = learning_rate_schedule(config, num_steps)

    def rate(count: Any) -> Any:
        return schedule(count.astype("float32") if isinstance(count, jax.Array) else count)

    betas = {"b1": config.adam_beta1, "b2": config.adam_beta2}
    decay = optax.add_decayed_weights(config.weight_decay, mask=decay_mask)
    match config.optim:
        case "adamw":
            optimizer = optax.adamw(
                rate, **betas, eps=config.adam_epsilon, weight_decay=config.weight_decay, mask=decay_mask
            )
        case "adamw_bf16":
            moments = stored_in_bfloat16(optax.scale_by_adam(**betas, eps=config.adam_epsilon), seed=config.seed)
            optimizer = optax.chain(moments, decay, optax.scale_by_learning_rate(rate))
        case "adafactor":
            # As transformers' Trainer has it: the learning rate is absolute, not relative to the size of a weight.
            # Optax adds the decay behind the learning rate; every other optimizer here scales it by that.
            adafactor = optax.adafactor(
                rate,
                multiply_by_parameter_scale=False,
                weight_decay_rate=(lambda count: config.weight_decay * rate(count)) if config.weight_decay else None,
                weight_decay_mask=decay_mask,
            )
            optimizer = layer_by_layer(adafactor)
        case "lion":
            optimizer = optax.lion(rate, **betas, weight_decay=config.weight_decay, mask=decay_mask)
        case "sgd":
            optimizer = optax.chain(decay, optax.sgd(rate))
    clip = optax.clip_by_global_norm(config.max_grad_norm) if config.max_grad_norm else optax.identity()
    return computed_in_float32(optax.chain(clip, optimizer))


def layer_by_layer(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Applies an optimizer that looks at weights as a whole to each layer's, not to the stack of all layers."""

    def parts(tree: dict[str, Any]) -> dict[str, Any]:
        split = {"layers": tree.get("layers"), "others": {name: tree[name] for name in tree if name != "layers"}}
        return {name: part for name, part in split.items() if part}

    def init(params: Any) -> dict[str, Any]:
        split = parts(params)
        return {name: (jax.vmap(inner.init) if name == "layers" else inner.init)(split[name]) for name in split}

    def update(updates: Any, state: dict[str, Any], params: Any) -> tuple[Any, dict[str, Any]]:
        split, weights = parts(updates), parts(params)
        new_updates: dict[str, Any] = {}
        new_state = {}
        for name, part in split.items():
            step = jax.vmap(inner.update) if name == "layers" else inner.update
            changed, new_state[name] = step(part, state[name], weights[name])
            new_updates |= {"layers": changed} if name == "layers" else changed
        return new_updates, new_state

    return optax.GradientTransformation(init, update)


def stored_in_bfloat16(inner: optax.GradientTransformation, *, seed: int) -> optax.GradientTransformation:
    """Keeps the moments of `inner` in bfloat16 between steps, and gives them back in float32.

    Each is rounded at random. To the nearest, a second moment would stand still: with beta2 = 0.999 a step moves it by
    less than half of a bfloat16 digit. The same seed and step give the same bits, on any mesh.
    """

    def is_moment(leaf: jax.Array) -> bool:
        return jnp.issubdtype(leaf.dtype, jnp.floating)

    def init(params: Any) -> dict[str, Any]:
        state = inner.init(params)
        moments = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if is_moment(leaf) else leaf, state)
        return {"count": jnp.int32(0), "moments": moments}

    def update(updates: Any, state: dict[str, Any], params: Any) -> tuple[Any, dict[str, Any]]:
        updates, moments = inner.update(updates, in_float32(state["moments"]), params)
        leaves, tree = jax.tree.flatten(moments)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), state["count"]), len(leaves))
        narrow = [
            round_at_random(key, leaf) if is_moment(leaf) else leaf for key, leaf in zip(keys, leaves, strict=True)
        ]
        return updates, {"count": state["count"] + 1, "moments": jax.tree.unflatten(tree, narrow)}

    return optax.GradientTransformation(init, update)
