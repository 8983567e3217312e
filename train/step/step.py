"""One optimizer step and one evaluation step: pure functions of (state, batch)."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from oddsmill.schemas.layout import PADDING
from oddsmill.train.config.loss import NllScope
from oddsmill.train.loss.fused_head import fused_head_loss, head_logp
from oddsmill.train.loss.orpo import (
    Denominators,
    PairValues,
    Sums,
    denominators,
    means,
    named_metrics,
    needed_positions,
    pair_values,
    row_loss,
)
from oddsmill.train.model.frozen import join_params
from oddsmill.train.parallel.sharding import BATCH_AXES

# {"params": tree of the trained weights, "opt_state": tree, "step": int32 scalar}; of a run also "skipped" (guard.py)
State = dict[str, Any]
Batch = dict[str, jax.Array]  # each [B, L] int32


@dataclass(frozen=True)
class Objective:
    """All that defines the loss of a batch besides weights and data.

    Attributes:
      definition: the decoder without its weights.
      max_pairs: the most pairs a row holds.
      compat: as in TrainConfig.
      dropout_seed: of the dropout in training steps; None where there is none.
    """

    definition: nnx.GraphDef
    mesh: Mesh
    beta: float
    nll_scope: NllScope
    max_pairs: int
    compat: Literal["trl"] | None = None
    dropout_seed: int | None = None

    def loss(
        self, params: Any, batch: Batch, totals: Denominators, frozen: Any = None, step: jax.Array | None = None
    ) -> tuple[jax.Array, Sums]:
        """The share of these rows in the loss of a batch whose denominators are `totals`.

        Args:
          params: the weights; those that are trained alone where the others are `frozen`.
          step: optimizer steps taken, for the dropout of a training step; None drops nothing.
        """
        decoder = nnx.merge(self.definition, join_params(params, frozen or {}))
        dropout_B = None
        if self.dropout_seed is not None and step is not None:
            key = jax.random.fold_in(jax.random.key(self.dropout_seed), step)
            dropout_B = jax.vmap(jax.random.fold_in, (None, 0))(key, fingerprint(batch["inputs"]))
        hidden_BLD = decoder(batch["inputs"], batch["position"], batch["end"], dropout_B)
        one_row = partial(row_loss, beta=self.beta, nll_scope=self.nll_scope, max_pairs=self.max_pairs)
        return fused_head_loss(
            hidden_BLD,
            decoder.head_VD,
            batch["labels"],
            batch["branch"],
            batch["segment"],
            needed_positions(batch["branch"], self.nll_scope),
            totals,
            one_row,
            self.mesh,
            decoder.config.final_logit_softcapping,
        )

    def pair_values(self, params: Any, batch: Batch) -> PairValues:
        """The parts of the loss, pair by pair, [B, N] each. Args: params: all weights of the decoder."""
        decoder = nnx.merge(self.definition, params)
        hidden_BLD = decoder(batch["inputs"], batch["position"], batch["end"])
        softcap = decoder.config.final_logit_softcapping
        needed_BL = needed_positions(batch["branch"], self.nll_scope)
        logp_BL = head_logp(hidden_BLD, decoder.head_VD, batch["labels"], needed_BL, self.mesh, softcap)
        of_row = partial(pair_values, nll_scope=self.nll_scope, max_pairs=self.max_pairs)
        return jax.vmap(of_row)(logp_BL, batch["branch"], batch["segment"])

    def totals(self, batch: Batch) -> Denominators:
        return denominators(batch["branch"], batch["segment"], self.nll_scope)


def fingerprint(inputs_BL: jax.Array) -> jax.Array:
    """A number of each row's tokens, [B] uint32: dropout keyed by it does not depend on where in a batch a row lies."""
    place_L = jnp.arange(inputs_BL.shape[1], dtype=jnp.uint32)
    return jnp.sum(inputs_BL.astype(jnp.uint32) * ((2 * place_L + 1) * jnp.uint32(0x9E3779B1)), 1, dtype=jnp.uint32)


def train_step(
    state: State,
    batch: Batch,
    frozen: Any = None,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    micro_batches: int,
) -> tuple[State, dict[str, jax.Array]]:
    """One optimizer step.

    Gradients and metrics of the micro-batches are added up, over denominators of the whole batch: the result
    does not depend on `micro_batches`, but for rounding. With compat=trl each micro-batch has its own.

    Args:
      frozen: the weights that are not in the state.

    Returns: the next state and the metrics of the batch before the update, each a scalar.
    """
    totals = objective.totals(batch)
    gradient = jax.value_and_grad(objective.loss, has_aux=True)

    def share_of(rows: Batch, totals: Denominators) -> tuple[Any, Sums]:
        (_, sums), gradients = gradient(state["params"], rows, totals, frozen, state["step"])
        return gradients, means(sums, totals)

    def one_micro_batch(carry: Any, micro_batch: tuple[Batch, Denominators]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, carry, share_of(*micro_batch)), None

    if micro_batches == 1:
        gradients, batch_means = share_of(batch, totals)
    else:
        split = split_batch(batch, totals, micro_batches=micro_batches, objective=objective)
        shapes = jax.eval_shape(share_of, *jax.tree.map(lambda x: x[0], split))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (gradients, batch_means), _ = jax.lax.scan(one_micro_batch, zeros, split)
    updates, opt_state = optimizer.update(gradients, state["opt_state"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    batch_metrics = {
        **named_metrics(batch_means, beta=objective.beta),
        "grad_norm": optax.global_norm(gradients),
        "num_tokens": jnp.sum(batch["branch"] != PADDING),
        "num_pairs": totals.pairs,
    }
    return {"params": params, "opt_state": opt_state, "step": state["step"] + 1}, batch_metrics


def split_batch(
    batch: Batch, totals: Denominators, *, micro_batches: int, objective: Objective
) -> tuple[Batch, Denominators]:
    """The rows of a step as micro-batches, stacked, and what the loss of each is divided by.

    With compat=trl these are consecutive rows, as in TRL, and the step's loss is the mean of their losses, those
    without a row not counted: each has its own denominators, times the number of micro-batches. Where an epoch ends
    with a micro-batch of r rows, TRL logs logps/* and rewards/* of the first r rows of each micro-batch of that step
    (accelerate's gather_for_metrics cuts them, having seen the end of the data): the others are marked as not reported.
    """
    if objective.compat == "trl":
        rows = NamedSharding(objective.mesh, PartitionSpec(None, BATCH_AXES))
        split = {name: x.reshape(micro_batches, -1, *x.shape[1:]) for name, x in batch.items()}
        split = jax.lax.with_sharding_constraint(split, rows)
        size = split["branch"].shape[1]
        rest = jnp.sum(jnp.any(split["branch"] != PADDING, axis=-1)) % size
        is_cut_K = (rest > 0) & (jnp.arange(size) >= rest)
        split["segment"] = jnp.where(is_cut_K[:, None], -split["segment"], split["segment"])
        own = jax.vmap(objective.totals)(split)
        count = jnp.sum(own.pairs > 0)
        return split, jax.tree.map(lambda total: jnp.maximum(total, 1) * count, own)
    # Every micro-batch takes every n-th row, so that rows stay on the device where they lie.
    split = {name: x.reshape(-1, micro_batches, *x.shape[1:]).swapaxes(0, 1) for name, x in batch.items()}
    return split, jax.tree.map(lambda total: jnp.broadcast_to(total, micro_batches), totals)


def eval_step(params: Any, batch: Batch, *, objective: Objective) -> dict[str, jax.Array]:
    """What evaluation needs of each pair of a batch: the fields of `PairValues`, [B, N], and the `pair_ids`."""
    return {**objective.pair_values(params, batch)._asdict(), "pair_ids": batch["pair_ids"]}
