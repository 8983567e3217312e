"""The one-row layout is exact: it equals the two-row form, packed or not, and nothing leaks between sequences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oddsmill.schemas.layout import CHOSEN, REJECTED, SIDE_OF_BRANCH
from oddsmill.schemas.record import Pair
from tests.datasets import packed, random_pairs, with_unscored
from tests.train.decoders import (
    VOCAB_SIZE,
    batch_of,
    decoder_config,
    dense_logp,
    largest_difference,
    objective_of,
    split_decoder,
    two_row_batch,
    two_row_loss,
)

NUM_BATCHES = 50
FAMILIES = {
    "llama": {},
    "llama-tied": {"tie_word_embeddings": True},
    "mistral-sliding": {"model_type": "mistral", "sliding_window": 3},
    "qwen2-partly-sliding": {
        "model_type": "qwen2", "sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 6},
    "gemma": {"model_type": "gemma", "head_dim": 6},
    "gemma2": {
        "model_type": "gemma2", "head_dim": 6, "sliding_window": 3, "query_pre_attn_scalar": 9,
        "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
    },
    "gemma3": {"model_type": "gemma3_text", "head_dim": 6, "sliding_window": 3, "sliding_window_pattern": 2},
    "phi3": {"model_type": "phi3", "partial_rotary_factor": 0.5},
}  # fmt: skip
PAIRS = 6  # a batch, at most
LONGEST = 6  # tokens a side
ROW_LENGTH = 40
BETA = 0.3


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def fixed_batch(rows, count: int, length: int) -> dict[str, np.ndarray]:
    """`rows` as a batch of exactly `count` rows: short ones are filled up with rows of padding."""
    batch = batch_of(rows, length)
    return {name: np.pad(array, ((0, count - len(rows)), (0, 0))) for name, array in batch.items()}


def mean_logps(logp, batch):
    """Mean log-probability of each answer, {(row, segment, branch): value}."""
    means = {}
    for row in range(logp.shape[0]):
        for segment in range(1, batch["segment"][row].max() + 1):
            for branch in (CHOSEN, REJECTED):
                mask = (batch["segment"][row] == segment) & (batch["branch"][row] == branch)
                means[row, segment, branch] = float(logp[row][mask].mean())
    return means


@pytest.mark.parametrize(
    ("family", "nll_scope", "num_batches"),
    [
        ("llama", "full", NUM_BATCHES),
        ("llama", "response", NUM_BATCHES),
        *((name, "full", 4) for name in list(FAMILIES)[1:]),
    ],
)
def test_one_row_layout_equals_the_two_row_form_packed_or_not(family, nll_scope, num_batches):
    """On random batches: per-pair log-probs, loss and every gradient, in float64; also with sliding windows, and in
    every other batch with answers some of whose tokens are unscored.
    """
    definition, params = split_decoder(decoder_config(**FAMILIES[family]), jnp.float64)
    objective = objective_of(definition, beta=BETA, nll_scope=nll_scope, max_pairs=PAIRS)

    @jax.jit
    def one_row(params, batch):
        gradient = jax.value_and_grad(objective.loss, has_aux=True)
        (loss, _), gradients = gradient(params, batch, objective.totals(batch))
        return loss, gradients, dense_logp(definition, params, batch)

    two_row = jax.jit(
        jax.value_and_grad(partial(two_row_loss, definition, beta=BETA, nll_scope=nll_scope), has_aux=True)
    )
    rng = np.random.default_rng(2)
    for number in range(num_batches):
        pairs = random_pairs(rng, int(rng.integers(1, PAIRS + 1)), vocab_size=VOCAB_SIZE, longest=LONGEST)
        if number % 2:
            pairs = [with_unscored(rng, pair) for pair in pairs]
        form = two_row_batch(pairs, 2 * LONGEST)
        # Static shapes: both forms are filled up to PAIRS pairs, which must add nothing.
        form = {
            name: np.concatenate([np.pad(half, ((0, PAIRS - len(pairs)), (0, 0))) for half in np.split(array, 2)])
            for name, array in form.items()
        }
        (reference, (chosen, rejected)), reference_gradients = two_row(params, form)
        for rows in ([[pair] for pair in pairs], packed(pairs, ROW_LENGTH)):
            batch = fixed_batch(rows, PAIRS, ROW_LENGTH)
            loss, gradients, logp = one_row(params, batch)
            assert abs(float(loss - reference)) < 1e-10
            assert largest_difference(gradients, reference_gradients) < 1e-10
            means = mean_logps(np.asarray(logp), batch)
            found = np.array(
                [means[row, s + 1, b] for row, r in enumerate(rows) for s in range(len(r)) for b in (2, 3)]
            )
            wanted = np.stack([chosen[: len(pairs)], rejected[: len(pairs)]], 1).ravel()
            np.testing.assert_allclose(found, wanted, atol=1e-10, rtol=0)


def test_a_token_depends_on_its_own_sequence_and_on_nothing_else():
    """Every position has its own token id, so the gradient in the embedding table is the gradient in the positions.

    d log-prob of a label / d an input is zero to the bit for other pairs, the other answer, later tokens and
    padding, and not zero for every token of the label's own sequence before it.
    """
    sides = np.arange(1, 28)
    first = {"prompt": sides[0:4], "chosen": sides[4:8], "rejected": sides[8:11]}
    second = {"prompt": sides[11:13], "chosen": sides[13:15], "rejected": sides[15:20]}
    pairs = [Pair(**{name: ids.tolist() for name, ids in pair.items()}, id=1) for pair in (first, second)]
    batch = batch_of([pairs], 28)
    definition, params = split_decoder(decoder_config(), jnp.float64)

    def logp_of(table):
        changed = {**params, "embed_tokens": {"weight": table}}
        return dense_logp(definition, changed, batch)[0]

    slopes = np.abs(np.asarray(jax.jit(jax.jacrev(logp_of))(params["embed_tokens"]["weight"]))).sum(-1)  # [L, V]
    for pair, segment in ((first, 1), (second, 2)):
        for branch in (1, 2, 3):
            for answer_index, position in enumerate(
                np.flatnonzero((batch["segment"][0] == segment) & (batch["branch"][0] == branch))
            ):
                if branch == 1:
                    visible = pair["prompt"][: answer_index + 1]
                else:
                    answer = pair["chosen" if branch == 2 else "rejected"]
                    visible = np.concatenate([pair["prompt"], answer[:answer_index]])
                assert set(np.flatnonzero(slopes[position])) == set(visible.tolist())


def test_padding_never_changes_a_value():
    """The ids that stand in padding, and how much of it there is, change no bit of loss or gradients."""
    definition, params = split_decoder(decoder_config(), jnp.float64)
    rng = np.random.default_rng(0)
    pairs = random_pairs(rng, 2, vocab_size=VOCAB_SIZE)
    objective = objective_of(definition, beta=BETA, nll_scope="full", max_pairs=2)

    def value(batch):
        (loss, _), gradients = jax.value_and_grad(objective.loss, has_aux=True)(params, batch, objective.totals(batch))
        return loss, gradients

    batch = batch_of([pairs], ROW_LENGTH)
    noisy = {**batch}
    for name in ("inputs", "labels", "position"):
        noise = rng.integers(0, VOCAB_SIZE, batch[name].shape).astype(np.int32)
        noisy[name] = np.where(batch["branch"] == 0, noise, batch[name])
    loss, gradients = jax.jit(value)(batch)
    noisy_loss, noisy_gradients = jax.jit(value)(noisy)
    assert loss == noisy_loss
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), gradients, noisy_gradients)))


@pytest.mark.parametrize("nll_scope", ["full", "response"])
def test_an_unscored_label_never_changes_a_value(nll_scope):
    """Whatever the model should have said there: no bit of loss or gradients depends on it. What it reads counts."""
    definition, params = split_decoder(decoder_config(), jnp.float64)
    rng = np.random.default_rng(1)
    pairs = random_pairs(rng, 3, vocab_size=VOCAB_SIZE)
    pairs = [Pair(**{**vars(pair), "unscored_chosen": [(1, 3)], "unscored_rejected": [(0, 2)]}) for pair in [
        Pair(prompt=pair.prompt, chosen=[*pair.chosen, 5, 6, 7], rejected=[8, 9, *pair.rejected], id=1)
        for pair in pairs
    ]]  # fmt: skip
    objective = objective_of(definition, beta=BETA, nll_scope=nll_scope, max_pairs=2)

    @jax.jit
    def value(batch):
        (loss, _), gradients = jax.value_and_grad(objective.loss, has_aux=True)(params, batch, objective.totals(batch))
        return loss, gradients

    batch = batch_of(packed(pairs, ROW_LENGTH), ROW_LENGTH)
    unscored = batch["branch"] > REJECTED
    assert unscored.sum() == 3 * 4
    other = np.where(unscored, (batch["labels"] + 1) % VOCAB_SIZE, batch["labels"])
    loss, gradients = value(batch)
    other_loss, other_gradients = value({**batch, "labels": other})
    assert loss == other_loss
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), gradients, other_gradients)))
    scored = {**batch, "branch": SIDE_OF_BRANCH[batch["branch"]].astype(np.int32)}
    assert value(scored)[0] != loss
