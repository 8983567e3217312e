"""Hugging Face weights: in and out without a bit changed; what does not fit is named."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from schemas.errors import Refused
from tests.train.decoders import decoder_config, split_decoder
from train.model import Decoder
from train.sharding import MeshConfig, make_mesh, param_shardings
from train.weights import load_params, save_params

CONFIG = decoder_config()


def shapes_and_shardings(dtype=jnp.float32):
    weights = nnx.split(nnx.eval_shape(lambda: Decoder(CONFIG, rngs=nnx.Rngs(0), param_dtype=dtype)))[1]
    shapes = nnx.to_pure_dict(weights)
    return shapes, param_shardings(shapes, make_mesh(MeshConfig()))


def load(folder, dtype=jnp.float32):
    return load_params(folder, *shapes_and_shardings(dtype), num_layers=CONFIG.num_hidden_layers)


@pytest.mark.parametrize("max_shard_size", ["5GB", "4KB"], ids=["one file", "sharded"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_save_and_load_keep_every_bit(tmp_path, dtype, max_shard_size):
    params = split_decoder(CONFIG, dtype)[1]
    save_params(params, tmp_path, num_layers=CONFIG.num_hidden_layers, max_shard_size=max_shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (max_shard_size == "4KB")
    loaded = load(tmp_path, dtype)
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    same = jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), loaded, params)
    assert all(jax.tree.leaves(same))


def test_names_are_hugging_faces(tmp_path):
    params = split_decoder(CONFIG)[1]
    save_params(params, tmp_path, num_layers=CONFIG.num_hidden_layers)
    tensors = load_file(tmp_path / "model.safetensors")
    assert {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"} < set(tensors)
    np.testing.assert_array_equal(
        tensors["model.layers.1.self_attn.k_proj.weight"], params["layers"]["self_attn"]["k_proj"]["weight"][1]
    )
    assert len(tensors) == 3 + 9 * CONFIG.num_hidden_layers


def test_all_that_does_not_fit_is_named_at_once(tmp_path):
    params = split_decoder(CONFIG)[1]
    save_params(params, tmp_path, num_layers=CONFIG.num_hidden_layers)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.norm.weight"]
    tensors["model.layers.9.mlp.up_proj.weight"] = np.zeros((2, 2), np.float32)
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1].copy()
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(Refused) as refusal:
        load(tmp_path)
    for part in (
        "missing model.norm.weight",
        "unexpected model.layers.9.mlp.up_proj.weight",
        "lm_head.weight has shape",
    ):
        assert part in str(refusal.value)


def test_weights_that_are_not_there_or_damaged_are_refused(tmp_path):
    with pytest.raises(Refused, match=r"lacks model\.safetensors"):
        load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(Refused, match="damaged"):
        load(tmp_path)
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(Refused, match="model-00001-of-00002"):
        load(tmp_path)
