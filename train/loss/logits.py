"""Logits of some positions, the log-probabilities of their labels, and the gradients through them.

Axes: D = hidden size; V = the device's part of the vocabulary; S = some positions; P, or B and L, = all of a device.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from oddsmill.train.attention.vanilla import softcap_vjp, softcapped


class HeadShard(NamedTuple):
    """The head as one device holds it.

    Attributes:
      weight_VD: in the compute dtype; a part of the vocabulary, where that is split over the devices of `vocab_axis`.
      softcap: logits x become softcap * tanh(x / softcap); None leaves them.
      vocab_axis: the mesh axis that splits the vocabulary; None: the device holds all of it.
    """

    weight_VD: jax.Array
    softcap: float | None
    vocab_axis: str | None


class LabelLogits(NamedTuple):
    """Logits of some positions, and the log-probabilities of their labels.

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
    """Returns the log-probability of each label and the log-sum-exp, both [S] in the logits' dtype.

    Args:
      labels_S: columns of the logits; with a `vocab_axis` those of other devices lie outside.
      vocab_axis: the mesh axis over whose devices the vocabulary is split; None: the logits have all of it.
    """
    lse_S = jax.nn.logsumexp(logits_SV, axis=-1)
    if vocab_axis is None:
        return jnp.take_along_axis(logits_SV, labels_S[:, None], axis=-1)[:, 0] - lse_S, lse_S
    max_S = jax.lax.pmax(lse_S, vocab_axis)
    lse_S = max_S + jnp.log(jax.lax.psum(jnp.exp(lse_S - max_S), vocab_axis))
    inside_S = (labels_S >= 0) & (labels_S < logits_SV.shape[-1])
    label_logit_S = jnp.take_along_axis(logits_SV, jnp.where(inside_S, labels_S, 0)[:, None], axis=-1)[:, 0]
    return jax.lax.psum(jnp.where(inside_S, label_logit_S, 0), vocab_axis) - lse_S, lse_S


def label_logits(hidden_SD: jax.Array, labels_S: jax.Array, head: HeadShard) -> LabelLogits:
    """Computes logits in float32 or wider, and the log-probability of each label."""
    acc_dtype = jnp.promote_types(hidden_SD.dtype, jnp.float32)
    if head.vocab_axis is not None:
        labels_S -= jax.lax.axis_index(head.vocab_axis) * head.weight_VD.shape[0]
    logits_SV = jnp.einsum("sd,vd->sv", hidden_SD, head.weight_VD, preferred_element_type=acc_dtype)
    logits_SV = softcapped(logits_SV, head.softcap)
    return LabelLogits(hidden_SD, labels_S, logits_SV, *label_logp(logits_SV, labels_S, head.vocab_axis))


def logits_gradients(logits: LabelLogits, grad_S: jax.Array, head: HeadShard) -> tuple[jax.Array, jax.Array]:
    """Returns the loss's gradients in the hidden states, [S, D], and in the head, [V, D] in float32 or wider.

    Args:
      grad_S: the loss's gradient in the log-probability of each label.
    """
    is_label_SV = jnp.arange(head.weight_VD.shape[0]) == logits.labels_S[:, None]
    dlogits_SV = grad_S[:, None] * (is_label_SV - jnp.exp(logits.logits_SV - logits.lse_S[:, None]))
    dlogits_SV = softcap_vjp(dlogits_SV, logits.logits_SV, head.softcap)
    dlogits_SV = dlogits_SV.astype(logits.hidden_SD.dtype)
    hidden_gradient_SD = jnp.einsum("sv,vd->sd", dlogits_SV, head.weight_VD)
    if head.vocab_axis is not None:
        hidden_gradient_SD = jax.lax.psum(hidden_gradient_SD, head.vocab_axis)
    acc_dtype = logits.logits_SV.dtype
    return hidden_gradient_SD, jnp.einsum("sv,sd->vd", dlogits_SV, logits.hidden_SD, preferred_element_type=acc_dtype)


def take(values_P: jax.Array, index_S: jax.Array) -> jax.Array:
    """Returns the values at these positions, and 0 for an index out of bounds."""
    return values_P.at[index_S].get(mode="fill", fill_value=0)


def put(index_S: jax.Array, values_S: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns zeros [B, L, …] with the values at their positions; a value whose index is out of bounds is dropped."""
    zeros_P = jnp.zeros((math.prod(shape[:2]), *values_S.shape[1:]), values_S.dtype)
    return zeros_P.at[index_S].set(values_S, mode="drop").reshape(shape)
