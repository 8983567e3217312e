"""The ORPO loss. The only home of its formula.

    loss = mean NLL of a token + beta * mean over pairs of -log sigmoid(log odds ratio)

Source: Hong et al. 2024 (arXiv:2403.07691), Eqs. 3-7; their lambda is `beta` here and in huggingface/trl.
Log-probabilities are in nats.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from oddsmill.train.config.loss import NllScope
from oddsmill.train.loss.pairs import ACCURACY_BAND, NLL_BAND, Band, PairLogps, Terms, reward_metrics

# A mean log-probability of 0 has infinite odds; it is reached in float32 by memorised answers.
MAX_MEAN_LOGP = -1e-6


def log_odds(mean_logp: jax.Array) -> jax.Array:
    """Returns log(p / (1 - p)) for p = exp(mean_logp) without forming p; Eq. 4.

    Args:
      mean_logp: any shape; values above `MAX_MEAN_LOGP` count as that.
    """
    mean_logp = jnp.minimum(mean_logp, MAX_MEAN_LOGP)
    return mean_logp - jax.nn.log1mexp(-mean_logp)


@jax.custom_jvp
def odds_ratio_loss(chosen_logp: jax.Array, rejected_logp: jax.Array) -> jax.Array:
    """Returns -log sigmoid(log odds of chosen - log odds of rejected); Eqs. 6-7.

    Args:
      chosen_logp, rejected_logp: mean log-probability of an answer's tokens, any one shape.

    Returns: the loss of each pair, >= 0 and finite for every finite input. The gradient is the closed form at the
      clamped values, and passes through the clamp: it is finite where autodiff of the textbook formula
      gives NaN (an answer of probability 1), and at most 1e6.
    """
    return jax.nn.softplus(log_odds(rejected_logp) - log_odds(chosen_logp))


@odds_ratio_loss.defjvp
def _odds_ratio_loss_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    chosen, rejected = (jnp.minimum(logp, MAX_MEAN_LOGP) for logp in primals)
    chosen_miss, rejected_miss = -jnp.expm1(chosen), -jnp.expm1(rejected)  # 1 - p, exact for p near 1
    denominator = chosen_miss + jnp.exp(chosen - rejected) * rejected_miss
    tangent = -tangents[0] / denominator + tangents[1] * chosen_miss / denominator / rejected_miss
    return odds_ratio_loss(*primals), tangent


@dataclass(frozen=True, kw_only=True)
class Orpo:
    """ORPO, its metrics under TRL's names; see `oddsmill.train.loss.pairs.PreferenceLoss`.

    Attributes:
      beta: the weight of the odds-ratio term.
      nll_scope: paper and TRL have `full`.
    """

    beta: float
    nll_scope: NllScope = "full"

    title: ClassVar[str] = "ORPO"
    paper: ClassVar[str] = "https://arxiv.org/abs/2403.07691"
    average_logps: ClassVar[bool] = True
    counts: ClassVar[frozenset[str]] = frozenset({"clamped"})
    headline: ClassVar[dict[str, str]] = {"log_odds_chosen": "log odds ratio"}
    # Wide round the log_odds_ratio of -0.63 to -0.60 and log_odds_chosen of 0.39-0.50 of the run named in pairs.py.
    healthy: ClassVar[tuple[Band, ...]] = (
        NLL_BAND,
        ACCURACY_BAND,
        Band(
            "eval/log_odds_chosen",
            -0.5,
            4.0,
            "rejected answers win: are the two sides swapped?",
            "the sides are driven far apart: a lower beta or learning rate keeps the language whole",
        ),
        Band(
            "eval/log_odds_ratio",
            -1.5,
            -0.02,
            "the odds-ratio loss is far above that of a coin (0.69)",
            "nothing is left to learn from the pairs",
        ),
    )

    @property
    def weights(self) -> dict[str, float]:
        return {"nll": 1.0, "odds_ratio_loss": self.beta}

    def pair_terms(self, pair: PairLogps) -> Terms:
        chosen, rejected = pair.chosen_logp, pair.rejected_logp
        return {
            "odds_ratio_loss": odds_ratio_loss(chosen, rejected),
            "log_odds_ratio": log_odds(chosen) - log_odds(rejected),
            "clamped": (chosen > MAX_MEAN_LOGP) | (rejected > MAX_MEAN_LOGP),
        }

    def metrics(self, means: Terms) -> Terms:
        return {
            "nll_loss": means["nll"],
            "log_odds_ratio": -means["odds_ratio_loss"],
            "log_odds_chosen": means["log_odds_ratio"],
            **reward_metrics(means, self.beta),
            "clamped_pairs": means["clamped"],
        }
