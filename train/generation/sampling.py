"""The choice of the next token: the logits processors of transformers, in its order.

Axes: B = rows, V = vocabulary. Logits are float32 or wider; a token that cannot be drawn has -inf.

Source: transformers' GenerationConfig and generation/logits_process.py.
"""

import jax
import jax.numpy as jnp

from oddsmill.train.config.sampling import SamplingConfig


def penalize_repetition(logits_BV: jax.Array, seen_BV: jax.Array, penalty: float) -> jax.Array:
    """Makes seen tokens less probable: their logits above 0 are divided by the penalty, those below multiplied.

    Args:
      seen_BV: bool, the tokens that stand in the prompt or in the answer so far.
    """
    penalized_BV = jnp.where(logits_BV < 0, logits_BV * penalty, logits_BV / penalty)
    return jnp.where(seen_BV, penalized_BV, logits_BV)


def keep_top_k(logits_BV: jax.Array, k: int) -> jax.Array:
    """Removes tokens whose logit is below the k-th highest; ties with it stay."""
    lowest_B1 = jax.lax.top_k(logits_BV, min(k, logits_BV.shape[-1]))[0][:, -1:]
    return jnp.where(logits_BV < lowest_B1, -jnp.inf, logits_BV)


def keep_top_p(logits_BV: jax.Array, p: float) -> jax.Array:
    """Removes the least probable tokens, as many as together have a probability of at most 1 - p; one always stays."""
    order_BV = jnp.argsort(logits_BV, axis=-1)
    ascending_BV = jnp.take_along_axis(logits_BV, order_BV, axis=-1)
    cumulative_BV = jnp.cumsum(jax.nn.softmax(ascending_BV, axis=-1), axis=-1)
    is_kept_BV = (cumulative_BV > 1 - p).at[:, -1].set(True)
    is_kept_BV = jnp.put_along_axis(jnp.zeros_like(is_kept_BV), order_BV, is_kept_BV, axis=-1, inplace=False)
    return jnp.where(is_kept_BV, logits_BV, -jnp.inf)


def process_logits(logits_BV: jax.Array, seen_BV: jax.Array | None, sampling: SamplingConfig) -> jax.Array:
    """Applies the processors that the settings turn on: repetition penalty, temperature, top-k, top-p.

    Args:
      seen_BV: as in `penalize_repetition`; None where there is no penalty.
    """
    if seen_BV is not None:
        logits_BV = penalize_repetition(logits_BV, seen_BV, sampling.repetition_penalty)
    if not sampling.do_sample:
        return logits_BV
    if sampling.temperature != 1:
        logits_BV = logits_BV / sampling.temperature
    if sampling.top_k:
        logits_BV = keep_top_k(logits_BV, sampling.top_k)
    return keep_top_p(logits_BV, sampling.top_p) if sampling.top_p < 1 else logits_BV


def choose(logits_BV: jax.Array, seen_BV: jax.Array | None, keys_B: jax.Array, sampling: SamplingConfig) -> jax.Array:
    """The next token of each row, [B] int32.

    Args:
      logits_BV: the model's, unprocessed.
      keys_B: one random key a row; not read where nothing is drawn.
    """
    logits_BV = process_logits(logits_BV, seen_BV, sampling)
    if sampling.do_sample:
        return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
