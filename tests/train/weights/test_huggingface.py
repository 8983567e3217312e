"""Hugging Face weights: in and out without a bit changed; what does not fit is named."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from bench.load import in_a_process, write_checkpoint
from oddsmill.schemas.errors import Refused
from oddsmill.train.config.devices import MeshConfig
from oddsmill.train.model.decoder import Decoder
from oddsmill.train.parallel.sharding import make_mesh, param_shardings
from oddsmill.train.weights.huggingface import load_params, save_params
from tests.train.decoders import decoder_config, split_decoder

CONFIG = decoder_config()


def shapes_and_shardings(dtype=jnp.float32, config=CONFIG):
    weights = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), param_dtype=dtype)))[1]
    shapes = nnx.to_pure_dict(weights)
    return shapes, param_shardings(shapes, make_mesh(MeshConfig()))


def load(folder, dtype=jnp.float32, config=CONFIG):
    return load_params(folder, *shapes_and_shardings(dtype, config), num_layers=config.num_hidden_layers)


FAMILIES = {
    "llama": {},
    "tied": {"tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 4},
    "phi3": {"model_type": "phi3"},
    "gemma": {"model_type": "gemma", "head_dim": 4},
    "gemma3": {"model_type": "gemma3_text", "head_dim": 4, "sliding_window": 8},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "max_shard_size"), [(jnp.float32, "5GB"), (jnp.bfloat16, "4KB")])
def test_save_and_load_keep_every_bit(tmp_path, family, dtype, max_shard_size):
    config = decoder_config(**FAMILIES[family])
    params = split_decoder(config, dtype)[1]
    save_params(params, tmp_path, num_layers=config.num_hidden_layers, max_shard_size=max_shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (max_shard_size == "4KB")
    loaded = load(tmp_path, dtype, config)
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    same = jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), loaded, params)
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, jnp.bfloat16])
def test_a_file_is_the_librarys_byte_for_byte(tmp_path, dtype):
    params = split_decoder(CONFIG, jnp.dtype(dtype))[1]
    save_params(params, tmp_path, num_layers=CONFIG.num_hidden_layers)
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "library", metadata={"format": "pt"})
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "library").read_bytes()


def test_dtypes_are_cast_as_numpy_casts_them(tmp_path):
    params = split_decoder(CONFIG, jnp.float32)[1]
    layers = CONFIG.num_hidden_layers
    save_params(params, tmp_path, num_layers=layers, dtype="bfloat16")
    expected = jax.tree.map(lambda leaf: np.asarray(leaf).astype(jnp.bfloat16), params)
    for dtype in (jnp.bfloat16, jnp.float32):  # as they are stored now, and wider
        loaded = load(tmp_path, dtype)
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: np.array_equal(a, b), loaded, expected)))
    save_params(params, tmp_path, num_layers=layers)
    narrowed = load(tmp_path, jnp.bfloat16)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: np.array_equal(a, b), narrowed, expected)))


def test_float16_is_what_numpy_makes_of_the_weights_and_none_becomes_infinite(tmp_path):
    params = split_decoder(CONFIG, jnp.float32)[1]
    layers = CONFIG.num_hidden_layers
    save_params(params, tmp_path, num_layers=layers, dtype="float16")
    stored = load_file(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(
        stored["lm_head.weight"], np.asarray(params["lm_head"]["weight"]).astype(np.float16), strict=True
    )
    params["norm"]["weight"] = params["norm"]["weight"].at[3].set(70_000.0)
    with pytest.raises(Refused, match=r"model\.norm\.weight holds numbers that float16 cannot hold"):
        save_params(params, tmp_path, num_layers=layers, dtype="float16")


@pytest.mark.parametrize("mesh", ["1x1", "2x4"])
def test_host_memory_holds_neither_a_file_nor_a_stack_of_layers(tmp_path, mesh):
    """And what comes out of the devices is what went in, byte for byte, on fake devices too."""
    layers, hidden = 10, 1024
    largest = write_checkpoint(tmp_path / "checkpoint", layers, hidden)
    stack = 43 / 16 * hidden * hidden * 2 * layers
    found = in_a_process(tmp_path / "checkpoint", layers, hidden, tuple(map(int, mesh.split("x"))), "bfloat16")
    for what in ("load", "export"):
        assert found[what]["rss"] < min(4 * largest, 1.2 * stack), found
    for file in (tmp_path / "checkpoint").iterdir():
        assert file.read_bytes() == (tmp_path / "exported" / file.name).read_bytes()


def test_names_are_hugging_faces(tmp_path):
    params = split_decoder(CONFIG)[1]
    save_params(params, tmp_path, num_layers=CONFIG.num_hidden_layers)
    tensors = load_file(tmp_path / "model.safetensors")
    assert {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"} < set(tensors)
    np.testing.assert_array_equal(
        tensors["model.layers.1.self_attn.k_proj.weight"], params["layers"]["self_attn"]["k_proj"]["weight"][1]
    )
    assert len(tensors) == 3 + 9 * CONFIG.num_hidden_layers


@pytest.fixture
def saved(tmp_path):
    """A folder with the weights of CONFIG in one file."""
    save_params(split_decoder(CONFIG)[1], tmp_path, num_layers=CONFIG.num_hidden_layers)
    return tmp_path


def refusal(folder, config=CONFIG):
    with pytest.raises(Refused) as caught:
        load(folder, config=config)
    return str(caught.value)


def changed(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_all_that_does_not_fit_is_named_at_once(saved):
    def change(tensors):
        del tensors["model.norm.weight"]
        for layer in (0, 1):
            del tensors[f"model.layers.{layer}.mlp.down_proj.weight"]
        tensors["model.layers.9.mlp.up_proj.weight"] = np.zeros((2, 2), np.float32)
        tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1].copy()
        tensors["model.embed_tokens.weight"] = np.zeros((48, 16), ml_dtypes.float8_e4m3fn)

    changed(saved, change)
    message = refusal(saved)
    for part in (
        "model.norm.weight",
        "missing model.layers.{0,1}.mlp.down_proj.weight",
        "unexpected model.layers.9.mlp.up_proj.weight",
        "lm_head.weight has shape [47, 16], config.json makes it [48, 16]",
        "F8_E4M3: model.embed_tokens.weight",
        "fetch the model's unquantized version",
    ):
        assert part in message


def test_buffers_and_a_tied_head_that_are_stored_as_well_do_no_harm_but_another_head_does(tmp_path):
    config = decoder_config(tie_word_embeddings=True)
    params = split_decoder(config)[1]
    save_params(params, tmp_path, num_layers=config.num_hidden_layers)

    def add(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(2, np.float32)

    changed(tmp_path, add)
    np.testing.assert_array_equal(
        load(tmp_path, config=config)["embed_tokens"]["weight"], params["embed_tokens"]["weight"]
    )
    changed(tmp_path, lambda tensors: tensors["lm_head.weight"].__setitem__((47, 15), 7.0))
    assert "set tie_word_embeddings to false" in refusal(tmp_path, config)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, jnp.bfloat16])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, dtype):
    save_params(split_decoder(CONFIG, jnp.dtype(dtype))[1], tmp_path, num_layers=CONFIG.num_hidden_layers)
    name, largest = "model.layers.1.mlp.up_proj.weight", float(jnp.finfo(dtype).max)
    for value in (largest, -largest, np.nan, np.inf, -np.inf):
        tensors = load_file(tmp_path / "model.safetensors")
        tensors[name][2, 3] = value
        save_file(tensors, tmp_path / "model.safetensors")
        if np.isfinite(value):
            load(tmp_path, dtype)
            continue
        with pytest.raises(Refused, match=rf"{tmp_path} holds numbers that are not finite in {name}; fetch"):
            load(tmp_path, dtype)
