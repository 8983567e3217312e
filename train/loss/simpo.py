"""SimPO and CPO, as TRL's CPOTrainer computes them with loss_type simpo and sigmoid.

    loss = nll_weight * mean NLL of a token of the chosen answers
           + mean over pairs of f(beta * (chosen - rejected) - gamma)

    f(x) = -(1 - label_smoothing) * log sigmoid(x) - label_smoothing * log sigmoid(-x)

SimPO takes the mean log-probability of an answer's tokens, CPO their sum, and no gamma. In TRL `nll_weight` is
`cpo_alpha`; 0 gives SimPO as in its paper. Label smoothing is that of conservative DPO (arXiv:2305.18290).

Source: Meng et al. 2024 (arXiv:2405.14734), Eq. 6; Xu et al. 2024 (arXiv:2401.08417), Eq. 7. Log-probabilities are in
nats.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax

from oddsmill.train.config.loss import NllScope
from oddsmill.train.loss.pairs import (
    ACCURACY_BAND,
    NLL_BAND,
    Band,
    PairLogps,
    Terms,
    reward_metrics,
    token_logp_metrics,
)


def smoothed_loss(margin: jax.Array, label_smoothing: float) -> jax.Array:
    """Returns f(margin) of the formula above: >= 0 and finite, with a gradient in [-1, 1], for every finite margin."""
    return (1 - label_smoothing) * jax.nn.softplus(-margin) + label_smoothing * jax.nn.softplus(margin)


@dataclass(frozen=True, kw_only=True)
class MarginLoss:
    """A loss of the margin between the rewards of two answers, with TRL's metrics; see `pairs.PreferenceLoss`."""

    title: str
    paper: str
    average_logps: bool
    beta: float
    gamma: float
    nll_weight: float
    label_smoothing: float

    nll_scope: ClassVar[NllScope] = "response"
    counts: ClassVar[frozenset[str]] = frozenset()
    headline: ClassVar[dict[str, str]] = {"rewards/margins": "reward margin"}
    healthy: ClassVar[tuple[Band, ...]] = (NLL_BAND, ACCURACY_BAND)

    @property
    def weights(self) -> dict[str, float]:
        return {"nll": self.nll_weight, "preference_loss": 1.0}

    def pair_terms(self, pair: PairLogps) -> Terms:
        reward_margin = self.beta * (pair.chosen_logp - pair.rejected_logp)
        preference_loss = smoothed_loss(reward_margin - self.gamma, self.label_smoothing)
        return {"preference_loss": preference_loss, "reward_margin": reward_margin}

    def metrics(self, means: Terms) -> Terms:
        token_logps = {} if self.average_logps else token_logp_metrics(means)
        return {"nll_loss": means["nll"], **reward_metrics(means, self.beta), **token_logps}


def simpo(*, beta: float, gamma: float, nll_weight: float, label_smoothing: float) -> MarginLoss:
    """Returns SimPO: its rewards are mean log-probabilities of a token, and must differ by `gamma`."""
    return MarginLoss(
        title="SimPO",
        paper="https://arxiv.org/abs/2405.14734",
        average_logps=True,
        beta=beta,
        gamma=gamma,
        nll_weight=nll_weight,
        label_smoothing=label_smoothing,
    )


def cpo(*, beta: float, nll_weight: float, label_smoothing: float) -> MarginLoss:
    """Returns CPO: its rewards are log-probabilities of whole answers."""
    return MarginLoss(
        title="CPO",
        paper="https://arxiv.org/abs/2401.08417",
        average_logps=False,
        beta=beta,
        gamma=0.0,
        nll_weight=nll_weight,
        label_smoothing=label_smoothing,
    )
