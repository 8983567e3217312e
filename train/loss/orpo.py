"""The ORPO loss. The only home of its formula.

    loss = sum(NLL) / number of NLL tokens + beta * mean over pairs of -log sigmoid(log odds ratio)

Both denominators are those of the whole optimizer batch (all hosts, devices and micro-batches), so the loss
is a sum over rows once they are known, and does not depend on how rows fall into micro-batches or devices.

Source: Hong et al. 2024 (arXiv:2403.07691), Eqs. 3-7; their lambda is `beta` here and in huggingface/trl.
Axes: B = rows, L = positions of a row, N = pairs a row can hold. Log-probabilities are in nats.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from oddsmill.schemas.layout import CHOSEN, PADDING, PROMPT, REJECTED
from oddsmill.train.config.loss import NllScope

# A mean log-probability of 0 has infinite odds; it is reached in float32 by memorised answers.
MAX_MEAN_LOGP = -1e-6


def log_odds(mean_logp: jax.Array) -> jax.Array:
    """log(p / (1 - p)) for p = exp(mean_logp), without forming p; Eq. 4. Any shape, clamped to `MAX_MEAN_LOGP`."""
    mean_logp = jnp.minimum(mean_logp, MAX_MEAN_LOGP)
    return mean_logp - jax.nn.log1mexp(-mean_logp)


@jax.custom_jvp
def odds_ratio_loss(chosen_logp: jax.Array, rejected_logp: jax.Array) -> jax.Array:
    """-log sigmoid(log odds of chosen - log odds of rejected); Eqs. 6-7.

    Args:
      chosen_logp, rejected_logp: any one shape, mean log-probability of an answer token.

    Returns: the loss a pair, >= 0 and finite for every finite input. The gradient is the closed form at the
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
    slope = -tangents[0] / denominator + tangents[1] * chosen_miss / denominator / rejected_miss
    return odds_ratio_loss(*primals), slope


class Denominators(NamedTuple):
    """What the two means of the loss divide by, over the whole optimizer batch. Scalars.

    Attributes:
      reported: pairs whose log-probabilities and rewards are in the metrics; all, but for compat=trl.
    """

    nll_tokens: jax.Array
    pairs: jax.Array
    reported: jax.Array


class PairValues(NamedTuple):
    """What a row says about each of its pairs; [N] each, or [B, N]. Slots without a pair are 0.

    Attributes:
      nll: sum over the pair's tokens that count in the NLL, and `nll_tokens` their number.
      chosen_logp, rejected_logp: mean over the answer's tokens.
      odds_ratio_loss, log_odds_ratio: of the pair, unweighted.
      prompt_tokens: labels of the prompt, one less than its tokens.
      chosen_tokens, rejected_tokens: of the answer; never 0 where there is a pair.
    """

    nll: jax.Array
    nll_tokens: jax.Array
    chosen_logp: jax.Array
    rejected_logp: jax.Array
    odds_ratio_loss: jax.Array
    log_odds_ratio: jax.Array
    prompt_tokens: jax.Array
    chosen_tokens: jax.Array
    rejected_tokens: jax.Array


class Sums(NamedTuple):
    """What a row adds to the metrics; added up over rows, then divided by the denominators. Scalars."""

    nll: jax.Array
    odds_ratio_loss: jax.Array
    chosen_logp: jax.Array
    rejected_logp: jax.Array
    log_odds_ratio: jax.Array
    accurate: jax.Array
    clamped: jax.Array


def nll_mask(branch: jax.Array, nll_scope: NllScope) -> jax.Array:
    """Positions whose label counts in the NLL: prompt and chosen (`full`, as paper and TRL) or chosen alone."""
    return (branch == CHOSEN) | ((branch == PROMPT) & (nll_scope == "full"))


def needed_positions(branch: Any, nll_scope: NllScope) -> Any | None:
    """Positions whose log-probability the loss reads: bool in the shape of `branch` (JAX or NumPy), or None: all but
    padding."""
    return None if nll_scope == "full" else (branch == CHOSEN) | (branch == REJECTED)


def denominators(branch: jax.Array, segment: jax.Array, nll_scope: NllScope) -> Denominators:
    """Counts of a whole batch; `branch` and `segment` are [..., L] int32, as `row_loss` takes them."""

    def pairs(segment: jax.Array) -> jax.Array:
        return jnp.sum(jnp.max(jnp.where(branch == PADDING, 0, segment), axis=-1))

    return Denominators(
        nll_tokens=jnp.sum(nll_mask(branch, nll_scope)),
        pairs=pairs(jnp.abs(segment)),
        reported=pairs(jnp.maximum(segment, 0)),
    )


def _mean_logps(
    logp_L: jax.Array, branch_L: jax.Array, segment_L: jax.Array, max_pairs: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Which slots hold a pair, and the mean log-probability of each answer's tokens (-1 where there is none); [N]."""
    of_pair_NL = jnp.abs(segment_L)[None, :] == jnp.arange(1, max_pairs + 1)[:, None]

    def mean_logp(branch: int) -> jax.Array:
        mask_NL = of_pair_NL & (branch_L == branch)
        # An empty slot has no token; the pair mask takes it out of every sum.
        return jnp.sum(jnp.where(mask_NL, logp_L, 0), -1) / jnp.maximum(jnp.sum(mask_NL, -1), 1)

    is_pair_N = jnp.any(of_pair_NL, -1)
    return is_pair_N, jnp.where(is_pair_N, mean_logp(CHOSEN), -1), jnp.where(is_pair_N, mean_logp(REJECTED), -1)


def pair_values(
    logp_L: jax.Array, branch_L: jax.Array, segment_L: jax.Array, *, nll_scope: NllScope, max_pairs: int
) -> PairValues:
    """The parts of the loss, pair by pair; arguments as in `row_loss`. For evaluation, which adds them up wide."""
    is_pair_N, chosen_N, rejected_N = _mean_logps(logp_L, branch_L, segment_L, max_pairs)
    of_pair_NL = segment_L[None, :] == jnp.arange(1, max_pairs + 1)[:, None]

    def count(mask_L: jax.Array) -> jax.Array:
        return jnp.sum(of_pair_NL & mask_L, -1)

    def there(values_N: jax.Array) -> jax.Array:
        return jnp.where(is_pair_N, values_N, 0)

    in_nll_L = nll_mask(branch_L, nll_scope)
    return PairValues(
        nll=-jnp.sum(jnp.where(of_pair_NL & in_nll_L, logp_L, 0), -1),
        nll_tokens=count(in_nll_L),
        chosen_logp=there(chosen_N),
        rejected_logp=there(rejected_N),
        odds_ratio_loss=there(odds_ratio_loss(chosen_N, rejected_N)),
        log_odds_ratio=there(log_odds(chosen_N) - log_odds(rejected_N)),
        prompt_tokens=count(branch_L == PROMPT),
        chosen_tokens=count(branch_L == CHOSEN),
        rejected_tokens=count(branch_L == REJECTED),
    )


def row_loss(
    logp_L: jax.Array,
    branch_L: jax.Array,
    segment_L: jax.Array,
    totals: Denominators,
    *,
    beta: float,
    nll_scope: NllScope,
    max_pairs: int,
) -> tuple[jax.Array, Sums]:
    """What one row adds to the loss.

    Args:
      logp_L: [L] float32 or wider, log-probability of each position's label.
      branch_L, segment_L: [L] int32, as `schemas.layout.derive` gives them; segments are negative in a row whose
        log-probabilities and rewards are not reported.
      totals: the denominators of the whole optimizer batch.
      max_pairs: N, the most pairs a row holds (static).

    Returns: the row's share of the loss, and its sums for the metrics.
    """
    nll = -jnp.sum(jnp.where(nll_mask(branch_L, nll_scope), logp_L, 0))
    is_pair_N, chosen_N, rejected_N = _mean_logps(logp_L, branch_L, segment_L, max_pairs)

    def total(values_N: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(is_pair_N, values_N, 0).astype(logp_L.dtype))

    reported = jnp.all(segment_L >= 0)
    odds_ratio = total(odds_ratio_loss(chosen_N, rejected_N))
    sums = Sums(
        nll=nll,
        odds_ratio_loss=odds_ratio,
        chosen_logp=reported * total(chosen_N),
        rejected_logp=reported * total(rejected_N),
        log_odds_ratio=total(log_odds(chosen_N) - log_odds(rejected_N)),
        accurate=reported * total(chosen_N > rejected_N),
        clamped=total((chosen_N > MAX_MEAN_LOGP) | (rejected_N > MAX_MEAN_LOGP)),
    )
    return nll / totals.nll_tokens + beta * odds_ratio / totals.pairs, sums


def means(sums: Sums, totals: Denominators) -> Sums:
    """What these sums add to the means over the batch that `totals` count; `clamped` stays a count."""
    return Sums(
        nll=sums.nll / totals.nll_tokens,
        odds_ratio_loss=sums.odds_ratio_loss / totals.pairs,
        chosen_logp=sums.chosen_logp / totals.reported,
        rejected_logp=sums.rejected_logp / totals.reported,
        log_odds_ratio=sums.log_odds_ratio / totals.pairs,
        accurate=sums.accurate / totals.reported,
        clamped=sums.clamped,
    )


def named_metrics(batch_means: Sums, *, beta: float) -> dict[str, jax.Array]:
    """TRL's metrics, under TRL's names, from the means of a whole batch. Each is a scalar."""
    chosen, rejected = batch_means.chosen_logp, batch_means.rejected_logp
    return {
        "loss": batch_means.nll + beta * batch_means.odds_ratio_loss,
        "nll_loss": batch_means.nll,
        "log_odds_ratio": -batch_means.odds_ratio_loss,
        "log_odds_chosen": batch_means.log_odds_ratio,
        "rewards/chosen": beta * chosen,
        "rewards/rejected": beta * rejected,
        "rewards/accuracies": batch_means.accurate,
        "rewards/margins": beta * (chosen - rejected),
        "logps/chosen": chosen,
        "logps/rejected": rejected,
        "clamped_pairs": batch_means.clamped,
    }


def metrics(sums: Sums, totals: Denominators, *, beta: float) -> dict[str, jax.Array]:
    """`named_metrics` from the sums of a whole batch."""
    return named_metrics(means(sums, totals), beta=beta)
