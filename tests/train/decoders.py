"""Small decoders, batches and the dense two-row reference that the one-row layout must equal."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from oddsmill.schemas.layout import derive
from oddsmill.schemas.record import Pair, make_row
from oddsmill.train.attention.choice import MECHANISMS
from oddsmill.train.attention.mechanism import Mechanism
from oddsmill.train.config.devices import MeshConfig
from oddsmill.train.config.loss import NllScope
from oddsmill.train.loss.orpo import Orpo, log_odds
from oddsmill.train.loss.pairs import Denominators, Terms, denominators, row_loss
from oddsmill.train.model.decoder import Decoder
from oddsmill.train.model.hf_config import DecoderConfig, parse_config
from oddsmill.train.parallel.sharding import make_mesh
from oddsmill.train.step.step import Objective

VOCAB_SIZE = 48
TINY = {
    "model_type": "llama",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.4,
}
# Gemma multiplies embeddings by sqrt(hidden_size), so the largest finite weight becomes infinite in the forward
# pass: how tests make a step that is not finite, since weights that are not finite are refused when they are read.
OVERFLOWING = {**TINY, "model_type": "gemma", "head_dim": 4, "tie_word_embeddings": False}


# Whose device programs can be interpreted on any device.
KERNELS = ("cudnn", "pallas", "splash")


def mechanism_of(name: str, *, block: int | None = None) -> Mechanism:
    """A mechanism as tests on a CPU run it: kernels interpreted, and with blocks of another size if they are given."""
    mechanism = MECHANISMS[name]
    compute = partial(mechanism.compute, interpret=True) if name in KERNELS else mechanism.compute
    if block is None:
        return replace(mechanism, compute=compute)
    blocks = mechanism.shortest_row // mechanism.length_multiple or 1
    return replace(mechanism, compute=partial(compute, block=block), length_multiple=block, shortest_row=blocks * block)


def decoder_config(**changes: Any) -> DecoderConfig:
    return parse_config({**TINY, **changes}, path="test")[0]


def split_decoder(
    config: DecoderConfig, dtype: Any = jnp.float32, seed: int = 0
) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """A decoder with random weights as (definition, pure dict of weights)."""
    decoder = Decoder(config, rngs=nnx.Rngs(seed), param_dtype=dtype, compute_dtype=dtype)
    definition, weights = nnx.split(decoder)
    return definition, nnx.to_pure_dict(weights)


def batch_of(rows: Sequence[Sequence[Pair]], row_length: int, vocab_size: int = VOCAB_SIZE) -> dict[str, np.ndarray]:
    """Derived arrays [B, L] of rows given as lists of pairs."""
    arrays = [derive(make_row(row, row_length=row_length, pad_id=0, vocab_size=vocab_size)) for row in rows]
    return {name: np.stack([getattr(row, name) for row in arrays]) for name in arrays[0]._fields}


def objective_of(definition: nnx.GraphDef, *, beta: float, nll_scope: NllScope, max_pairs: int) -> Objective:
    return Objective(
        definition=definition,
        mesh=make_mesh(MeshConfig()),
        preference=Orpo(beta=beta, nll_scope=nll_scope),
        max_pairs=max_pairs,
    )


def dense_logp(definition: nnx.GraphDef, params: Any, batch: dict[str, Any]) -> jax.Array:
    """Log-probability of every label, [B, L], from full logits."""
    decoder = nnx.merge(definition, params)
    hidden = decoder(batch["inputs"], batch["position"], batch["end"])
    logp = jax.nn.log_softmax(decoder.logits(hidden))
    return jnp.take_along_axis(logp, batch["labels"][..., None], -1)[..., 0]


def dense_loss(
    definition: nnx.GraphDef, params: Any, batch: dict[str, Any], *, beta: float, nll_scope: NllScope, max_pairs: int
) -> tuple[jax.Array, Terms]:
    """The loss on the one-row layout with full logits."""
    totals: Denominators = denominators(batch["branch"], batch["segment"], nll_scope)
    one_row = partial(row_loss, loss=Orpo(beta=beta, nll_scope=nll_scope), max_pairs=max_pairs)
    logp = dense_logp(definition, params, batch)
    over_rows = jax.vmap(one_row, in_axes=(0, 0, 0, None, None))
    losses, sums = over_rows(logp, batch["branch"], batch["segment"], None, totals)
    return losses.sum(), jax.tree.map(jnp.sum, sums)


def two_row_batch(pairs: Sequence[Pair], length: int) -> dict[str, np.ndarray]:
    """The classic form: prompt+chosen of every pair, then prompt+rejected of every pair, right-padded.

    `answer` and `scored` leave out unscored tokens, which are attended to.
    """
    sequences = [[*p.prompt, *p.chosen] for p in pairs] + [[*p.prompt, *p.rejected] for p in pairs]
    prompts = [len(pair.prompt) for pair in pairs] * 2
    unscored = [pair.unscored_chosen for pair in pairs] + [pair.unscored_rejected for pair in pairs]
    shape = (len(sequences), length)
    ids, attended, scored, answer = (np.zeros(shape, np.int32) for _ in range(4))
    for row, (sequence, prompt, spans) in enumerate(zip(sequences, prompts, unscored, strict=True)):
        ids[row, : len(sequence)] = sequence
        attended[row, : len(sequence)] = scored[row, : len(sequence)] = 1
        for start, end in spans:
            scored[row, prompt + start : prompt + end] = 0
        answer[row, prompt:] = scored[row, prompt:]
    return {"ids": ids, "attended": attended, "scored": scored, "answer": answer}


def two_row_loss(
    definition: nnx.GraphDef, params: Any, batch: dict[str, Any], *, beta: float, nll_scope: NllScope
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """ORPO as TRL computes it: 2B padded rows, full logits, shifted labels; independent of the layout's arrays.

    Returns: the loss, and the mean log-probabilities of the answers, chosen [B] and rejected [B].
    """
    decoder = nnx.merge(definition, params)
    ids, attended, scored, answer = (jnp.asarray(batch[name]) for name in ("ids", "attended", "scored", "answer"))
    length = ids.shape[1]
    position = jnp.broadcast_to(jnp.arange(length), ids.shape)
    # Causal, padding never seen: the last real position ends every real key.
    end = jnp.where(attended == 1, attended.sum(1, keepdims=True), 0)
    hidden = decoder(ids, position, end)
    logits = decoder.logits(hidden)[:, :-1]
    logp = jnp.take_along_axis(jax.nn.log_softmax(logits), ids[:, 1:, None], -1)[..., 0]
    answer, scored = answer[:, 1:], scored[:, 1:]
    pairs = ids.shape[0] // 2
    # Padding rows (pairs that are not there) have no answer token.
    there = answer[:pairs].sum(1) > 0
    means = (logp * answer).sum(1) / jnp.maximum(answer.sum(1), 1)
    chosen, rejected = (jnp.where(there, side, -1.0) for side in (means[:pairs], means[pairs:]))
    counted = (scored if nll_scope == "full" else answer)[:pairs]
    nll = -(logp[:pairs] * counted).sum() / counted.sum()
    penalty = -jax.nn.log_sigmoid(log_odds(chosen) - log_odds(rejected))
    loss = nll + beta * jnp.where(there, penalty, 0).sum() / there.sum()
    return loss, (chosen, rejected)


def largest_difference(first: Any, second: Any) -> float:
    """Largest absolute difference of two trees of arrays, over the largest magnitude in the second, at least 1."""
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return max(float(jnp.abs(a - b).max()) / max(1.0, float(jnp.abs(b).max())) for a, b in pairs)
