"""The decoder against transformers: golden logits of tiny models, both generations of config.json."""

from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from tests.train.decoders import decoder_config, split_decoder
from train.hf_config import num_parameters, parse_config, read_config
from train.model import Decoder, rope_frequencies
from train.sharding import MeshConfig, make_mesh, param_shardings
from train.weights import load_params

MODELS = Path(__file__).parent.parent / "golden" / "models"


@pytest.mark.parametrize("config_name", ["config.json", "config_v4.json"])
@pytest.mark.parametrize("name", sorted(path.name for path in MODELS.iterdir()))
def test_logits_equal_those_of_transformers(name, config_name):
    folder = MODELS / name
    config, unused = parse_config(read_config(folder / config_name), path=config_name)
    assert not unused
    definition, weights = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    shapes = nnx.to_pure_dict(weights)
    shardings = param_shardings(shapes, make_mesh(MeshConfig()))
    params = load_params(folder, shapes, shardings, num_layers=config.num_hidden_layers)

    golden = np.load(folder / "io.npz")
    ids, attended = golden["input_ids"], golden["attention_mask"]
    position = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
    end = np.where(attended == 1, attended.sum(1, keepdims=True), 0)

    @jax.jit
    def logits(params):
        decoder = nnx.merge(definition, params)
        return decoder.logits(decoder(ids, position, end))

    real = attended == 1
    np.testing.assert_allclose(logits(params)[real], golden["logits"][real], atol=5e-5, rtol=1e-4)


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


def test_rematerialisation_changes_no_value_and_no_gradient():
    config = decoder_config()
    ids = np.arange(12, dtype=np.int32)[None]

    def total(params, remat):
        definition = nnx.split(Decoder(config, rngs=nnx.Rngs(0), remat=remat))[0]
        return nnx.merge(definition, params)(ids, ids, np.full_like(ids, 12)).sum()

    _, params = split_decoder(config)
    plain, recomputed = (jax.value_and_grad(total)(params, remat) for remat in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, recomputed)
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(plain[1]))


def test_rope_frequencies_by_hand():
    default = rope_frequencies(decoder_config().ropes[0], 4)
    np.testing.assert_allclose(default, [1.0, 0.01])
    linear = decoder_config(rope_scaling={"type": "linear", "factor": 4.0}).ropes[0]
    np.testing.assert_allclose(rope_frequencies(linear, 4), [0.25, 0.0025])
