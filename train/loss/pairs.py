"""The parts that every preference loss shares: masks, log-probabilities of pairs, denominators, and what is reported.

A preference loss weighs means over the whole optimizer batch (all hosts, devices and micro-batches):

    loss = weights["nll"] * sum(NLL) / number of NLL tokens + sum over terms t of weights[t] * sum(t) / number of pairs

Unscored tokens of an answer (schemas/layout.py) have a branch of their own, so that they are in no sum and no count.
Once the denominators are known this is a sum over rows, so it does not depend on how rows fall into micro-batches or
devices. The formulas of the terms are in loss/orpo.py and its neighbours; loss/choice.py names them all.

Axes: B = rows, L = positions of a row, N = pairs that a row can hold. Log-probabilities are in nats.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from oddsmill.schemas.layout import CHOSEN, PADDING, PROMPT, REJECTED
from oddsmill.train.config.loss import NllScope

Array = TypeVar("Array", jax.Array, np.ndarray)
# Sums, or means, over rows by the name of their term.
Terms = dict[str, jax.Array]

# Terms from which logps/* and rewards/* are computed. Under compat=trl they are reported for some of the rows only.
REPORTED_TERMS = frozenset({"chosen_logp", "rejected_logp", "accurate", "chosen_token_logp", "rejected_token_logp"})
# Columns of `pair_values` that are no terms.
TOKEN_COUNTS = ("nll_tokens", "prompt_tokens", "chosen_tokens", "rejected_tokens")


@dataclass(frozen=True)
class Band:
    """The range of an evaluation metric in a healthy fine-tuning, and what it means when the metric leaves it."""

    metric: str
    low: float
    high: float
    below: str
    above: str


# Wide round what public runs show: Mistral-7B on a mix of preference sets with ORPO at beta 0.1 evaluates to NLL
# 0.88-0.94 and accuracy 0.63-0.66 (card of mistral-orpo-mix-b0.1-l2048-pl1792-lr5e-6-inverse-sqrt); its third epoch, at
# NLL 1.17, overfits.
NLL_BAND = Band(
    metric="eval/nll_loss",
    low=0.2,
    high=4.0,
    below="held-out text is memorised: is it in the training data?",
    above="the model has lost, or never had, the language of the data: is the tokenizer its own, the rate too high?",
)
ACCURACY_BAND = Band(
    metric="eval/rewards/accuracies",
    low=0.45,
    high=0.97,
    below="rejected answers win: are the two sides swapped?",
    above="the sides are told apart by something trivial, such as their length or an end of turn",
)


class PairLogps(NamedTuple):
    """Log-probabilities of the answers of each pair, [N] each; a slot without a pair holds -1 and one token.

    Attributes:
      chosen_logp, rejected_logp: the mean over the answer's tokens, or their sum, as `PreferenceLoss.average_logps`
        asks for.
      chosen_tokens, rejected_tokens: int32.
    """

    chosen_logp: jax.Array
    rejected_logp: jax.Array
    chosen_tokens: jax.Array
    rejected_tokens: jax.Array


class PreferenceLoss(Protocol):
    """A loss over pairs of a chosen and a rejected answer, as the trainer reads it."""

    @property
    def title(self) -> str:
        """The name by which people know the loss, such as "ORPO"."""

    @property
    def paper(self) -> str:
        """The address of the paper that defines it."""

    @property
    def nll_scope(self) -> NllScope:
        """Tokens of the NLL: `full` is prompt and chosen answer, `response` the chosen answer alone."""

    @property
    def average_logps(self) -> bool:
        """True where the loss reads the mean log-probability of an answer's tokens, False where it reads their sum."""

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each term in the loss: of "nll", a mean over tokens, and of pair terms, means over pairs."""

    @property
    def counts(self) -> frozenset[str]:
        """Pair terms that are true or false, and reported as the number of pairs for which they are true."""

    @property
    def headline(self) -> Mapping[str, str]:
        """Metrics that the console and the curves show beside loss and accuracy, each with the title of its panel."""

    @property
    def healthy(self) -> tuple[Band, ...]:
        """The ranges outside which an evaluation raises an alarm."""

    def pair_terms(self, pair: PairLogps) -> Terms:
        """Returns the terms of every pair, [N] each. Those without a weight only describe the pair.

        The terms and their gradients must be finite for every finite log-probability.
        """

    def metrics(self, means: Terms) -> Terms:
        """Returns named metrics, all but the loss itself, from the means of all terms over the batch. Scalars."""


class Denominators(NamedTuple):
    """Counts of the whole optimizer batch that sums over rows are divided by. Scalars.

    Attributes:
      reported: pairs whose log-probabilities and rewards are in the metrics.
    """

    nll_tokens: jax.Array
    pairs: jax.Array
    reported: jax.Array


def nll_mask(branch: jax.Array, nll_scope: NllScope) -> jax.Array:
    """Returns the positions whose label counts in the NLL, as bool."""
    return (branch == CHOSEN) | ((branch == PROMPT) & (nll_scope == "full"))


def needed_positions(branch: Array, nll_scope: NllScope) -> Array | None:
    """Returns the positions whose log-probability a loss reads, as bool, or None for all but padding."""
    return None if nll_scope == "full" else (branch == CHOSEN) | (branch == REJECTED)


def denominators(
    branch: jax.Array, segment: jax.Array, nll_scope: NllScope, reported: jax.Array | None = None
) -> Denominators:
    """Counts tokens and pairs of a whole batch.

    Args:
      branch, segment: [..., L] int32, as `oddsmill.schemas.layout.derive` gives them.
      reported: [...] bool, rows whose log-probabilities and rewards are reported; None reports all.
    """
    pairs = jnp.max(jnp.where(branch == PADDING, 0, segment), axis=-1)
    num_pairs = jnp.sum(pairs)
    return Denominators(
        nll_tokens=jnp.sum(nll_mask(branch, nll_scope)),
        pairs=num_pairs,
        reported=num_pairs if reported is None else jnp.sum(jnp.where(reported, pairs, 0)),
    )


def pair_logps(
    logp_L: jax.Array, branch_L: jax.Array, segment_L: jax.Array, *, average: bool, max_pairs: int
) -> tuple[jax.Array, PairLogps]:
    """Returns which slots of a row hold a pair, [N] bool, and the log-probabilities of their answers."""
    in_pair_NL = segment_L[None, :] == jnp.arange(1, max_pairs + 1)[:, None]
    is_pair_N = jnp.any(in_pair_NL, -1)

    def answer(branch: int) -> tuple[jax.Array, jax.Array]:
        mask_NL = in_pair_NL & (branch_L == branch)
        tokens_N = jnp.maximum(jnp.sum(mask_NL, -1), 1)
        logp_N = jnp.sum(jnp.where(mask_NL, logp_L, 0), -1)
        return jnp.where(is_pair_N, logp_N / tokens_N if average else logp_N, -1), tokens_N

    (chosen_N, chosen_tokens_N), (rejected_N, rejected_tokens_N) = answer(CHOSEN), answer(REJECTED)
    return is_pair_N, PairLogps(chosen_N, rejected_N, chosen_tokens_N, rejected_tokens_N)


def _all_terms(pair: PairLogps, loss: PreferenceLoss) -> Terms:
    """Returns the terms of the loss and those that are reported of any loss, [N] each."""
    chosen, rejected = pair.chosen_logp, pair.rejected_logp
    terms = {"chosen_logp": chosen, "rejected_logp": rejected, "accurate": chosen > rejected}
    if not loss.average_logps:  # a sum says little where answers differ in length
        terms["chosen_token_logp"] = chosen / pair.chosen_tokens
        terms["rejected_token_logp"] = rejected / pair.rejected_tokens
    return terms | loss.pair_terms(pair)


def pair_values(
    logp_L: jax.Array, branch_L: jax.Array, segment_L: jax.Array, *, loss: PreferenceLoss, max_pairs: int
) -> Terms:
    """Returns the parts of the loss pair by pair, for evaluation, which adds them up in float64.

    Args: as in `row_loss`.

    Returns: [N] arrays, 0 in slots without a pair: every term; `nll`, the sum over the tokens that count in it, and
      `nll_tokens`, their number; `prompt_tokens`, one less than the prompt has, since its first token is no label;
      `chosen_tokens` and `rejected_tokens`, which are scored: never 0 where there is a pair.
    """
    is_pair_N, pair = pair_logps(logp_L, branch_L, segment_L, average=loss.average_logps, max_pairs=max_pairs)
    in_pair_NL = segment_L[None, :] == jnp.arange(1, max_pairs + 1)[:, None]

    def count(mask_L: jax.Array) -> jax.Array:
        return jnp.sum(in_pair_NL & mask_L, -1)

    in_nll_L = nll_mask(branch_L, loss.nll_scope)
    return {
        "nll": -jnp.sum(jnp.where(in_pair_NL & in_nll_L, logp_L, 0), -1),
        "nll_tokens": count(in_nll_L),
        **{name: jnp.where(is_pair_N, values_N, 0) for name, values_N in _all_terms(pair, loss).items()},
        "prompt_tokens": count(branch_L == PROMPT),
        "chosen_tokens": count(branch_L == CHOSEN),
        "rejected_tokens": count(branch_L == REJECTED),
    }


def row_loss(
    logp_L: jax.Array,
    branch_L: jax.Array,
    segment_L: jax.Array,
    reported: jax.Array | None,
    totals: Denominators,
    *,
    loss: PreferenceLoss,
    max_pairs: int,
) -> tuple[jax.Array, Terms]:
    """Returns what one row adds to the loss, and its sums for the metrics.

    Args:
      logp_L: [L] float32 or wider, the log-probability of each position's label.
      branch_L, segment_L: [L] int32, as `oddsmill.schemas.layout.derive` gives them.
      reported: scalar bool, false in a row whose log-probabilities and rewards are not reported; None reports them.
      totals: the denominators of the whole optimizer batch.
      max_pairs: N, the most pairs that a row holds (static).
    """
    is_pair_N, pair = pair_logps(logp_L, branch_L, segment_L, average=loss.average_logps, max_pairs=max_pairs)
    sums = {"nll": -jnp.sum(jnp.where(nll_mask(branch_L, loss.nll_scope), logp_L, 0))}
    for name, values_N in _all_terms(pair, loss).items():
        sums[name] = jnp.sum(jnp.where(is_pair_N, values_N, 0).astype(logp_L.dtype))
        if reported is not None and name in REPORTED_TERMS:
            sums[name] *= reported
    shares = (weight * sums[name] / _denominator(name, totals) for name, weight in loss.weights.items())
    return sum(shares, start=jnp.zeros((), logp_L.dtype)), sums


def _denominator(name: str, totals: Denominators) -> jax.Array:
    if name == "nll":
        return totals.nll_tokens
    return totals.reported if name in REPORTED_TERMS else totals.pairs


def means(sums: Terms, totals: Denominators, counts: frozenset[str]) -> Terms:
    """Returns what these sums add to the means over the batch that `totals` count; `counts` stay sums."""
    return {name: value if name in counts else value / _denominator(name, totals) for name, value in sums.items()}


def named_metrics(batch_means: Terms, loss: PreferenceLoss) -> Terms:
    """Returns the loss and its metrics from the means of a whole batch. Scalars, or NumPy's where the means are."""
    first, *others = (weight * batch_means[name] for name, weight in loss.weights.items())
    return {"loss": sum(others, start=first), **loss.metrics(batch_means)}


def metrics(sums: Terms, totals: Denominators, loss: PreferenceLoss) -> Terms:
    """Returns `named_metrics` from the sums of a whole batch."""
    return named_metrics(means(sums, totals, loss.counts), loss)


def reward_metrics(batch_means: Terms, beta: float) -> Terms:
    """Returns the metrics that TRL has of every preference loss: rewards, their margin and accuracy, and logps/*."""
    chosen, rejected = batch_means["chosen_logp"], batch_means["rejected_logp"]
    return {
        "rewards/chosen": beta * chosen,
        "rewards/rejected": beta * rejected,
        "rewards/accuracies": batch_means["accurate"],
        "rewards/margins": beta * (chosen - rejected),
        "logps/chosen": chosen,
        "logps/rejected": rejected,
    }


def token_logp_metrics(batch_means: Terms) -> Terms:
    """Returns mean log-probabilities of an answer's tokens, for a loss whose logps/* are sums."""
    return {f"token_logps/{side}": batch_means[f"{side}_token_logp"] for side in ("chosen", "rejected")}


def token_logp_names(loss: PreferenceLoss) -> tuple[str, str]:
    """Returns the metrics of chosen and rejected answers that are in nats a token, whatever the loss."""
    prefix = "logps" if loss.average_logps else "token_logps"
    return f"{prefix}/chosen", f"{prefix}/rejected"


def describing_terms(loss: PreferenceLoss, columns: Iterable[str]) -> list[str]:
    """Returns the columns of `pair_values` that are terms of the loss itself, neither weighed in it nor counted."""
    others = {"pair_ids", "nll", *TOKEN_COUNTS, *REPORTED_TERMS, *loss.weights, *loss.counts}
    return [name for name in columns if name not in others]


def metric_names(loss: PreferenceLoss) -> list[str]:
    """Returns the names of a loss's metrics, in order, without a device: processes may not have joined yet."""
    ones: defaultdict[str, Any] = defaultdict(lambda: 1.0)
    return list(named_metrics(ones, loss))
