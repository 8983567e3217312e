"""Arithmetic on numbers that are kept in bfloat16: in float32, then rounded at random, right on average.

bfloat16 has 8 binary digits. Where the sum is rounded to the nearest, an update of less than 1/512 of its weight is
lost: at the learning rates of fine-tuning nearly every one. Rounded at random, a weight moves by a whole digit in one
step of many, and on average as in float32.

Source: Gupta et al. 2015 (arXiv:1502.02551), section 3; of weights in bfloat16 Zamirai et al. 2020 (arXiv:2010.06192).
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

# It tells the noise of weights from that of moments (train/step/optimizer.py) and of dropout, which have the same seed.
_WEIGHTS = 0xB16


def round_at_random(key: jax.Array, exact: jax.Array) -> jax.Array:
    """Rounds each number to one of its two neighbours in bfloat16, up with the probability of what is cut off.

    So the mean is `exact`. What bfloat16 holds stays as it is, infinities and NaN too; a number and its negative are
    rounded to the same magnitude. The noise of an element depends on the key and on its place in the whole array, not
    on how that is spread over devices (jax_threefry_partitionable).

    Args:
      exact: float32, any shape.

    Returns: bfloat16, of that shape.
    """
    # The lower half of the bits is what is cut off; adding noise below it carries into the upper half that often.
    bits = jax.lax.bitcast_convert_type(exact, jnp.uint32)
    noisy = bits + jax.random.bits(key, exact.shape, jnp.uint16).astype(jnp.uint32)
    rounded = jax.lax.bitcast_convert_type((noisy >> 16).astype(jnp.uint16), jnp.bfloat16)
    return jnp.where(jnp.isnan(exact), jnp.bfloat16(jnp.nan), rounded)  # a carry would make NaN a number


def in_float32(tree: Any) -> Any:
    """Returns a tree whose narrower floating-point arrays are float32; others, float64 among them, stay."""

    def wide(leaf: jax.Array) -> jax.Array:
        is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) if is_float else leaf

    return jax.tree.map(wide, tree)


def computed_in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Gives an optimizer its weights and gradients in float32, so that its moments and updates are float32 too.

    Optax keeps moments in the dtype of their weight: in bfloat16, rounded to the nearest, a second moment stands still.
    """

    def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        return inner.update(in_float32(updates), state, in_float32(params))

    return optax.GradientTransformation(lambda params: inner.init(in_float32(params)), update)


def apply_updates(params: Any, updates: Any, *, seed: int, step: jax.Array) -> Any:
    """Returns weight + update of every weight, in its dtype; those in bfloat16 are rounded by `round_at_random`.

    Args:
      params: the trained weights.
      updates: a tree like it, in float32 or wider.
      seed: of the run. The same seed and step give the same bits, after a resume and on any mesh.
      step: int32 scalar, optimizer steps taken.
    """
    leaves, tree = jax.tree.flatten(params)
    if not any(leaf.dtype == jnp.bfloat16 for leaf in leaves):
        return optax.apply_updates(params, updates)
    run_key = jax.random.fold_in(jax.random.key(seed), _WEIGHTS)
    keys = jax.tree.unflatten(tree, list(jax.random.split(jax.random.fold_in(run_key, step), len(leaves))))

    def apply(weight: jax.Array, update: jax.Array, key: jax.Array) -> jax.Array:
        if weight.dtype != jnp.bfloat16:
            return (weight + update).astype(weight.dtype)
        return round_at_random(key, weight.astype(jnp.float32) + update.astype(jnp.float32))

    return jax.tree.map(apply, params, updates, keys)
