"""The soft cap of scores and logits; Gemma 2, arXiv:2408.00118, section 2."""

import jax
import jax.numpy as jnp


def softcapped(values: jax.Array, softcap: float | None) -> jax.Array:
    """`softcap` * tanh(`values` / `softcap`); None leaves them."""
    return values if softcap is None else softcap * jnp.tanh(values / softcap)


def through_softcap(slope: jax.Array, capped: jax.Array, softcap: float | None) -> jax.Array:
    """The derivative in the values, of that in the values `capped`."""
    return slope if softcap is None else slope * (1 - (capped / softcap) ** 2)
