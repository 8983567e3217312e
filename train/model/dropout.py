"""Dropout whose masks follow from a key a row: whatever batch, device or micro-batch a row lies in, it has the same."""

import jax
import jax.numpy as jnp

# Streams tell the masks of one place in a layer from those of another; adapters count theirs from 0.
ATTENTION, AFTER_ATTENTION, AFTER_MLP = 1000, 1001, 1002


def drop(x: jax.Array, keys_B: jax.Array | None, *, stream: int, rate: float) -> jax.Array:
    """Leaves elements out at random.

    Args:
      x: [B, ...].
      keys_B: a key a row, of a layer and step; None leaves x as it is.
      stream: the place in the layer.
      rate: the probability with which an element becomes 0; the others are divided by its complement.

    Returns: as `x`.
    """
    if keys_B is None or not rate:
        return x
    streams_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, stream)
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(streams_B)
    return jnp.where(kept, x / (1 - rate), 0)
