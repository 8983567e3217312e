"""The mesh and the table of sharding rules, on meshes of no devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, PartitionSpec

from oddsmill.schemas.errors import Refused
from oddsmill.train.config.devices import MeshConfig
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.model.decoder import Decoder
from oddsmill.train.parallel.sharding import (
    _RULES,
    MESH_AXES,
    batch_sharding,
    make_mesh,
    num_row_shards,
    param_shardings,
    put_on_mesh,
    row_share,
    shard_bytes,
    state_shardings,
)
from oddsmill.train.step.optimizer import make_optimizer
from tests.train.decoders import decoder_config


def specs(fsdp, tensor=1, **changes):
    weights = nnx.split(nnx.eval_shape(lambda: Decoder(decoder_config(**changes), rngs=nnx.Rngs(0))))[1]
    mesh = AbstractMesh((1, fsdp, tensor), MESH_AXES)
    shardings = param_shardings(nnx.to_pure_dict(weights), mesh)
    return jax.tree.map(lambda sharding: sharding.spec, shardings)


def test_every_weight_of_every_family_has_a_rule():
    for family in ("llama", "qwen2", "qwen3", "phi3", "gemma3_text"):
        assert jax.tree.leaves(specs(2, model_type=family), is_leaf=lambda leaf: isinstance(leaf, PartitionSpec))


def test_weights_lie_along_the_hidden_dimension_and_embeddings_by_row():
    found = specs(4)
    assert found["embed_tokens"]["weight"] == PartitionSpec(("tensor", "fsdp"), None)
    assert found["layers"]["self_attn"]["q_proj"]["weight"] == PartitionSpec(None, "tensor", "fsdp")
    assert found["layers"]["mlp"]["down_proj"]["weight"] == PartitionSpec(None, "fsdp", "tensor")
    assert found["layers"]["input_layernorm"]["weight"] == PartitionSpec()


def test_an_odd_vocabulary_lies_by_column():
    assert specs(4, vocab_size=47)["embed_tokens"]["weight"] == PartitionSpec(None, "fsdp")
    assert specs(2, 4, vocab_size=46)["embed_tokens"]["weight"] == PartitionSpec("fsdp", None)


def test_a_mesh_that_does_not_divide_the_weights_is_refused():
    with pytest.raises(Refused, match=r"--mesh\.fsdp=5 does not divide embed_tokens\.weight"):
        specs(5)
    with pytest.raises(Refused, match=r"--mesh\.tensor=5 does not divide layers\.mlp\.down_proj\.weight"):
        specs(1, 5)


def test_every_mesh_axis_has_a_part_in_the_table():
    named = {axis for specs in (rule for _, rule in _RULES) for spec in specs for axis in jax.tree.leaves(tuple(spec))}
    assert named == set(MESH_AXES) - {"data"}  # copies


@pytest.mark.parametrize("optim", ["adamw", "adamw_bf16", "adafactor", "lion", "sgd"])
def test_the_state_of_every_optimizer_can_lie_on_the_mesh(optim):
    """Moments lie as their weights do. Adafactor's have other shapes, but for embeddings too small to be factored."""
    decoder = decoder_config(hidden_size=128, intermediate_size=256)
    weights = nnx.to_pure_dict(nnx.split(nnx.eval_shape(lambda: Decoder(decoder, rngs=nnx.Rngs(0))))[1])
    mesh = AbstractMesh((1, 4, 1), MESH_AXES)
    config = TrainConfig(data="d", run_dir="r", model=ModelConfig(config="c"), optim=optim)
    state = jax.eval_shape(lambda params: {"params": params, "opt": make_optimizer(config, 10).init(params)}, weights)
    shardings = state_shardings(state, param_shardings(weights, mesh), mesh)
    split = [
        sharding.shard_shape(leaf.shape) != leaf.shape
        for leaf, sharding in zip(jax.tree.leaves(state["opt"]), jax.tree.leaves(shardings["opt"]), strict=True)
    ]
    matrices, embeddings = sum(leaf.ndim == 3 for leaf in jax.tree.leaves(weights)), 2
    both = matrices + embeddings
    assert (
        sum(split)
        == {"adamw": 2 * both, "adamw_bf16": 2 * both, "adafactor": embeddings, "lion": both, "sgd": 0}[optim]
    )


@pytest.mark.parametrize("axes", [{"fsdp": 2}, {"data": 2}, {"tensor": 0}, {"data": 0}])
def test_a_mesh_of_another_number_of_devices_is_refused(axes):
    with pytest.raises(Refused, match="their product must be the number of devices, 1"):
        make_mesh(MeshConfig(**axes), jax.devices()[:1])


def test_a_mesh_has_the_axes_of_the_table_and_one_process_reads_all_rows():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    assert dict(mesh.shape) == dict.fromkeys(MESH_AXES, 1)
    assert row_share(mesh) == (0, 1) and num_row_shards(mesh) == 1


def test_rows_are_split_over_the_batch_axes_alone_and_bytes_are_those_of_a_part():
    mesh = AbstractMesh((2, 4, 3), MESH_AXES)
    assert num_row_shards(mesh) == 8
    sharding = batch_sharding(mesh)
    assert sharding.shard_shape((16, 5)) == (2, 5)
    leaf = jax.ShapeDtypeStruct((16, 5), jnp.bfloat16, sharding=sharding)
    assert shard_bytes({"a": leaf, "b": {"c": leaf}}) == 2 * (2 * 5 * 2)


def test_a_batch_on_the_mesh_is_the_one_of_the_host():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    batch = {"ids": np.arange(12, dtype=np.int32).reshape(3, 4)}
    found = put_on_mesh(batch, mesh)
    np.testing.assert_array_equal(found["ids"], batch["ids"])
    assert found["ids"].sharding == batch_sharding(mesh)
