"""Logits of some positions, the log-probabilities of their labels, and the gradients through them.

Axes: D = hidden size; V = the device's part of the vocabulary; S = some positions; P, or B and L, = all of a device.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from oddsmill.train.attention.vanilla import softcap_vjp, softcapped


class HeadShard(NamedTuple):
    """The head of a device.

    Attributes:
      weight_VD: in the compute dtype; its part of the vocabulary, where that is split over the devices of `vocab_axis`.
    """

    weight_VD: jax.Array
    softcap: float | None
    vocab_axis: str | None


class LabelLogits(NamedTuple):
    """What is computed of some positions.

    Attributes:
      hidden_SD: the positions' hidden states.
      labels_S: as columns of `logits_SV`; those of other devices lie outside.
      logits_SV, logp_S, lse_S: float32 or wider; the log-probability of each label, and the log-sum-exp.
    """

    hidden_SD: jax.Array
    labels_S: jax.Array
    logits_SV: jax.Array
    logp_S: jax.Array
    lse_S: jax.Array


def label_logp(logits_SV: jax.Array, labels_S: jax.Array, vocab_axis: str | None = None) -> tuple[jax.Array, jax.Array]:
    """Log-probability of each label and the log-sum-exp, both [S] in the logits' dtype.

    Args:
      labels_S: columns of the logits; with a `vocab_axis` those of other devices lie outside.
      vocab_axis: the mesh axis over whose devices the vocabulary is split; None: the logits have all of it.
    """
    lse_S = jax.nn.logsumexp(logits_SV, axis=-1)
    if vocab_axis is None:
        return jnp.take_along_axis(logits_SV, labels_S[:, None], axis=-1)[:, 0] - lse_S, lse_S
    highest_S = jax.lax.pmax(lse_S, vocab_axis)
    lse_S = highest_S + jnp.log(jax.lax.psum(jnp.exp(lse_S - highest_S), vocab_axis))
    inside_S = (labels_S >= 0) & (labels_S < logits_SV.shape[-1])
    label_logit_S = jnp.take_along_axis(logits_SV, jnp.where(inside_S, labels_S, 0)[:, None], axis=-1)[:, 0]
    return jax.lax.psum(jnp.where(inside_S, label_logit_S, 0), vocab_axis) - lse_S, lse_S


def label_logits(hidden_SD: jax.Array, labels_S: jax.Array, head: HeadShard) -> LabelLogits:
    wide = jnp.promote_types(hidden_SD.dtype, jnp.float32)
    if head.vocab_axis is not None:
        labels_S -= jax.lax.axis_index(head.vocab_axis) * head.weight_VD.shape[0]
    logits_SV = jnp.einsum("sd,vd->sv", hidden_SD, head.weight_VD, preferred_element_type=wide)
    logits_SV = softcapped(logits_SV, head.softcap)
    return LabelLogits(hidden_SD, labels_S, logits_SV, *label_logp(logits_SV, labels_S, head.vocab_axis))


def logits_gradients(logits: LabelLogits, slope_S: jax.Array, head: HeadShard) -> tuple[jax.Array, jax.Array]:
    """Of the hidden states [S, D], and of the head's weight [V, D] in float32 or wider.

    Args:
      slope_S: the loss's derivative in the log-probability of each label.
    """
    is_label_SV = jnp.arange(head.weight_VD.shape[0]) == logits.labels_S[:, None]
    slope_SV = slope_S[:, None] * (is_label_SV - jnp.exp(logits.logits_SV - logits.lse_S[:, None]))
    slope_SV = softcap_vjp(slope_SV, logits.logits_SV, head.softcap)
    slope_SV = slope_SV.astype(logits.hidden_SD.dtype)
    hidden_gradient_SD = jnp.einsum("sv,vd->sd", slope_SV, head.weight_VD)
    if head.vocab_axis is not None:
        hidden_gradient_SD = jax.lax.psum(hidden_gradient_SD, head.vocab_axis)
    wide = logits.logits_SV.dtype
    return hidden_gradient_SD, jnp.einsum("sv,sd->vd", slope_SV, logits.hidden_SD, preferred_element_type=wide)


def take(values_P: jax.Array, index_S: jax.Array) -> jax.Array:
    """The values at these positions; 0 where an index lies outside, which means none."""
    return values_P.at[index_S].get(mode="fill", fill_value=0)


def put(index_S: jax.Array, values_S: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The values at their positions [B, L, …], 0 at the others; those whose index lies outside are dropped."""
    zeros_P = jnp.zeros((math.prod(shape[:2]), *values_S.shape[1:]), values_S.dtype)
    return zeros_P.at[index_S].set(values_S, mode="drop").reshape(shape)
