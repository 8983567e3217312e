"""One optimizer step and one evaluation step: pure functions of (state, batch)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from oddsmill.schemas.layout import PADDING
from oddsmill.train.loss.fused_head import fused_head_loss, head_logp
from oddsmill.train.loss.head_passes import Rows
from oddsmill.train.loss.pairs import (
    Denominators,
    PreferenceLoss,
    Terms,
    denominators,
    means,
    named_metrics,
    needed_positions,
    pair_values,
    row_loss,
)
from oddsmill.train.model.frozen import join_params
from oddsmill.train.step.batch_rules import Batch, SplitBatch, split_batch
from oddsmill.train.step.rounding import apply_updates, in_float32

# {"params": tree of the trained weights, "opt_state": tree, "step": int32 scalar}; of a run also "skipped" (guard.py)
State = dict[str, Any]


@dataclass(frozen=True)
class Objective:
    """All that defines the loss of a batch besides weights and data.

    Attributes:
      definition: the decoder without its weights.
      preference: the loss over pairs.
      max_pairs: the most pairs a row holds.
      dropout_seed: seeds the dropout of training steps; None where there is none.
    """

    definition: nnx.GraphDef
    mesh: Mesh
    preference: PreferenceLoss
    max_pairs: int
    dropout_seed: int | None = None

    def loss(
        self, params: Any, batch: Batch, totals: Denominators, frozen: Any = None, step: jax.Array | None = None
    ) -> tuple[jax.Array, Terms]:
        """Returns the share of these rows in the loss of a batch whose denominators are `totals`, and their sums.

        Args:
          params: the weights; only those that are trained where the others are `frozen`.
          step: optimizer steps taken, for the dropout of a training step; None drops nothing.
        """
        decoder = nnx.merge(self.definition, join_params(params, frozen or {}))
        dropout_B = None
        if self.dropout_seed is not None and step is not None:
            key = jax.random.fold_in(jax.random.key(self.dropout_seed), step)
            dropout_B = jax.vmap(jax.random.fold_in, (None, 0))(key, fingerprint(batch["inputs"]))
        hidden_BLD = decoder(batch["inputs"], batch["position"], batch["end"], dropout_B)
        one_row = partial(row_loss, loss=self.preference, max_pairs=self.max_pairs)
        softcap = decoder.config.final_logit_softcapping
        return fused_head_loss(self._rows(hidden_BLD, batch), decoder.head_VD, totals, one_row, self.mesh, softcap)

    def pair_values(self, params: Any, batch: Batch) -> Terms:
        """Returns the parts of the loss pair by pair, [B, N] each, see `oddsmill.train.loss.pairs.pair_values`.

        Args:
          params: all weights of the decoder.
        """
        decoder = nnx.merge(self.definition, params)
        hidden_BLD = decoder(batch["inputs"], batch["position"], batch["end"])
        softcap = decoder.config.final_logit_softcapping
        logp_BL = head_logp(self._rows(hidden_BLD, batch), decoder.head_VD, self.mesh, softcap)
        one_row = partial(pair_values, loss=self.preference, max_pairs=self.max_pairs)
        return jax.vmap(one_row)(logp_BL, batch["branch"], batch["segment"])

    def totals(self, batch: Batch) -> Denominators:
        """Returns the denominators of a batch."""
        return denominators(batch["branch"], batch["segment"], self.preference.nll_scope, batch.get("reported"))

    def _rows(self, hidden_BLD: jax.Array, batch: Batch) -> Rows:
        return Rows(
            hidden=hidden_BLD,
            labels=batch["labels"],
            branch=batch["branch"],
            segment=batch["segment"],
            needed=needed_positions(batch["branch"], self.preference.nll_scope),
            reported=batch.get("reported"),
        )


def fingerprint(inputs_BL: jax.Array) -> jax.Array:
    """Returns a number of each row's tokens, [B] uint32.

    Dropout keyed by it does not depend on where in a batch a row lies.
    """
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
    seed: int = 0,
    split: Callable[[Batch, int, Callable[[Batch], Denominators], Mesh], SplitBatch] = split_batch,
) -> tuple[State, dict[str, jax.Array]]:
    """Takes one optimizer step.

    Gradients and metrics of the micro-batches are added up in float32 or wider, each over the denominators that `split`
    gives it. With ours, those of the whole batch, the result does not depend on `micro_batches`, but for rounding.

    Args:
      frozen: the weights that are not in the state.
      seed: of the noise by which weights in bfloat16 are rounded, see `apply_updates`.
      split: see `oddsmill.train.step.batch_rules.BatchRules`.

    Returns: the next state and the metrics of the batch before the update, each a scalar.
    """
    totals = objective.totals(batch)
    gradient = jax.value_and_grad(objective.loss, has_aux=True)

    def share(rows: Batch, totals: Denominators) -> tuple[Any, Terms]:
        (_, sums), gradients = gradient(state["params"], rows, totals, frozen, state["step"])
        return in_float32(gradients), means(sums, totals, objective.preference.counts)

    def one_micro_batch(carry: Any, micro_batch: SplitBatch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, carry, share(*micro_batch)), None

    if micro_batches == 1:
        gradients, batch_means = share(batch, totals)
    else:
        micro = split(batch, micro_batches, objective.totals, objective.mesh)
        shapes = jax.eval_shape(share, *jax.tree.map(lambda x: x[0], micro))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (gradients, batch_means), _ = jax.lax.scan(one_micro_batch, zeros, micro)
    updates, opt_state = optimizer.update(gradients, state["opt_state"], state["params"])
    params = apply_updates(state["params"], updates, seed=seed, step=state["step"])
    batch_metrics = {
        **named_metrics(batch_means, objective.preference),
        "grad_norm": optax.global_norm(gradients),
        "num_tokens": jnp.sum(batch["branch"] != PADDING),
        "num_pairs": totals.pairs,
    }
    return {"params": params, "opt_state": opt_state, "step": state["step"] + 1}, batch_metrics


def eval_step(params: Any, batch: Batch, *, objective: Objective) -> dict[str, jax.Array]:
    """Returns the `pair_values` of a batch, [B, N] each, and beside them its `pair_ids`."""
    return {**objective.pair_values(params, batch), "pair_ids": batch["pair_ids"]}
