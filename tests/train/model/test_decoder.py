"""The decoder against transformers: golden logits of tiny models, both generations of config.json."""

from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict

from oddsmill.schemas.layout import CHOSEN, PADDING, PROMPT, REJECTED
from oddsmill.schemas.record import Pair
from oddsmill.train.config.devices import MeshConfig
from oddsmill.train.model.decoder import Decoder
from oddsmill.train.model.hf_config import num_parameters, parse_config, read_config
from oddsmill.train.parallel.sharding import make_mesh, param_shardings
from oddsmill.train.weights.huggingface import load_params
from tests.datasets import random_pairs
from tests.train.decoders import batch_of, decoder_config, split_decoder

MODELS = Path(__file__).parents[2] / "golden" / "models"
NAMES = sorted(path.name for path in MODELS.iterdir())
TOLERANCE = {"atol": 5e-5, "rtol": 1e-4}


def load_model(folder, config_name):
    config, unused = parse_config(read_config(folder / config_name), path=config_name)
    assert not unused
    definition, weights = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    shapes = nnx.to_pure_dict(weights)
    shardings = param_shardings(shapes, make_mesh(MeshConfig()))
    return definition, load_params(folder, shapes, shardings, num_layers=config.num_hidden_layers)


@pytest.mark.parametrize("config_name", ["config.json", "config_v4.json"])
@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_those_of_transformers(name, config_name):
    folder = MODELS / name
    definition, params = load_model(folder, config_name)
    golden = np.load(folder / "io.npz")
    ids, attended = golden["input_ids"], golden["attention_mask"]
    position = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
    end = np.where(attended == 1, attended.sum(1, keepdims=True), 0)

    @jax.jit
    def logits(params):
        decoder = nnx.merge(definition, params)
        return decoder.logits(decoder(ids, position, end))

    real = attended == 1
    np.testing.assert_allclose(logits(params)[real], golden["logits"][real], **TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_those_of_transformers_as_pairs_of_a_packed_row(name):
    """Each golden sequence is a pair's prompt and chosen answer in one row, its prompt and rejected answer in another.

    Between strangers, and long enough a row for blockwise attention. A side's last token is never an input, so each
    is given one more.
    """
    definition, params = load_model(MODELS / name, "config.json")
    golden = np.load(MODELS / name / "io.npz")
    lengths = golden["attention_mask"].sum(1)
    sequences = [ids[:length].tolist() for ids, length in zip(golden["input_ids"], lengths, strict=True)]
    rng = np.random.default_rng(0)
    strangers = random_pairs(rng, 4, vocab_size=golden["logits"].shape[-1], longest=9)

    def row(side):
        pairs = [strangers[0]]
        for sequence, stranger in zip(sequences, strangers[1:], strict=True):
            cut = int(rng.integers(1, len(sequence)))
            answers = {"chosen": stranger.chosen, "rejected": stranger.rejected, side: [*sequence[cut:], 0]}
            pairs += [Pair(prompt=sequence[:cut], **answers, id=len(pairs)), stranger]
        return pairs

    batch = batch_of([row("chosen"), row("rejected")], 256, vocab_size=golden["logits"].shape[-1])

    @jax.jit
    def logits(params):
        decoder = nnx.merge(definition, params)
        return decoder.logits(decoder(batch["inputs"], batch["position"], batch["end"]))

    found = np.asarray(logits(params))
    assert (batch["branch"][:, -1] == PADDING).all()
    for row_index, branch in enumerate((CHOSEN, REJECTED)):
        for index, length in enumerate(lengths):
            own = (batch["segment"] == 2 * index + 2) & np.isin(batch["branch"], (PROMPT, branch))
            assert batch["inputs"][row_index][own[row_index]].tolist() == sequences[index]
            np.testing.assert_allclose(found[row_index][own[row_index]], golden["logits"][index, :length], **TOLERANCE)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True},
        {"model_type": "qwen2"},
        {"model_type": "qwen3", "head_dim": 6},
        {"model_type": "gemma3_text", "head_dim": 6, "sliding_window": 3},
        {"model_type": "phi3"},
    ],
)
def test_parameter_count_is_the_formulas(changes):
    config = decoder_config(**changes)
    _, params = split_decoder(config)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == num_parameters(config)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_random_weights_are_drawn_as_transformers_draws_them(family):
    """Normal tables and projections, norms that change nothing, biases and the row of the padding token zero."""
    config = decoder_config(
        model_type=family, vocab_size=400, hidden_size=64, intermediate_size=96, head_dim=16, initializer_range=0.03,
        attention_bias=True, pad_token_id=7, tie_word_embeddings=False,
    )  # fmt: skip
    weights = flatten_dict(split_decoder(config)[1])
    for path, leaf in weights.items():
        if path[-1] == "bias":
            assert not leaf.any(), path
        elif any("norm" in part for part in path):
            assert (leaf == (family != "gemma2")).all(), path
        else:
            drawn = np.delete(leaf, 7, axis=0) if path == ("embed_tokens", "weight") else leaf
            assert np.std(drawn) == pytest.approx(0.03, rel=0.05), path
            assert abs(np.mean(drawn)) < 2e-3, path
    assert ("layers", "self_attn", "q_proj", "bias") in weights
    table = weights["embed_tokens", "weight"]
    assert not table[7].any() and (np.abs(np.delete(table, 7, axis=0)).max(axis=1) > 0).all()
    assert weights["lm_head", "weight"][7].all()


def test_a_padding_token_that_is_not_in_the_vocabulary_changes_no_row():
    """Phi-3's default is 32000, in a smaller model too."""
    config = decoder_config(model_type="phi3")
    assert config.pad_token_id == 32000
    assert split_decoder(config)[1]["embed_tokens"]["weight"].all()


def test_rematerialisation_changes_no_value_and_no_gradient():
    config = decoder_config()
    ids = np.arange(12, dtype=np.int32)[None]

    def total(params, remat):
        definition = nnx.split(Decoder(config, rngs=nnx.Rngs(0), remat=remat))[0]
        return nnx.merge(definition, params)(ids, ids, np.full_like(ids, 12)).sum()

    _, params = split_decoder(config)
    plain, recomputed = (jax.jit(jax.value_and_grad(partial(total, remat=remat)))(params) for remat in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, recomputed)
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(plain[1]))

    def products(remat):
        return str(jax.make_jaxpr(jax.grad(total), static_argnums=1)(params, remat)).count("dot_general")

    # What a policy keeps is not computed again.
    assert products("dots_saveable") == products(False)
    assert products("dots_saveable") < products("dots_with_no_batch_dims_saveable") < products(True)
