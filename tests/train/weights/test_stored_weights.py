"""Weights as people store them: without their prefix, below a wrapper, with other heads beside them, the head alone."""

from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from oddsmill.schemas.errors import Refused
from oddsmill.train.weights.huggingface import save_params
from oddsmill.train.weights.stored_weights import check_stored, find_stored, stored_dtypes
from tests.train.decoders import decoder_config, split_decoder
from tests.train.weights.test_huggingface import load, shapes_and_shardings

UNTIED, TIED = decoder_config(), decoder_config(tie_word_embeddings=True)


def stored_as(folder: Path, rename, config=UNTIED):
    """Writes random weights under the names that `rename` makes of transformers' own; returns the weights."""
    params = split_decoder(config)[1]
    save_params(params, folder, num_layers=config.num_hidden_layers)
    tensors = load_file(folder / "model.safetensors")
    save_file(dict(rename(tensors)), folder / "model.safetensors")
    return params


def with_prefix(prefix, head="lm_head.weight"):
    return lambda tensors: {
        head if name == "lm_head.weight" else prefix + name.removeprefix("model."): tensor
        for name, tensor in tensors.items()
    }


def assert_equal_trees(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), left, right)))


@pytest.mark.parametrize(
    "rename",
    [
        with_prefix("model."),
        with_prefix(""),
        with_prefix("language_model.model.", "language_model.lm_head.weight"),
        with_prefix("model.language_model."),
        with_prefix("_orig_mod.model.", "_orig_mod.lm_head.weight"),
        with_prefix("module.model.", "module.lm_head.weight"),
    ],
)
@pytest.mark.parametrize("config", [UNTIED, TIED], ids=["untied", "tied"])
def test_names_may_lack_their_prefix_or_stand_below_a_wrapper(tmp_path, rename, config):
    params = stored_as(tmp_path, rename, config)
    assert_equal_trees(load(tmp_path, config=config), params)


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_a_tied_model_may_store_the_head_alone(tmp_path, prefix):
    def rename(tensors):
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
        return with_prefix(prefix)(tensors)

    params = stored_as(tmp_path, rename, TIED)
    assert_equal_trees(load(tmp_path, config=TIED), params)
    path = ("embed_tokens", "weight")
    assert stored_dtypes(tmp_path, {path}, num_layers=2) == {path: np.dtype(np.float32)}


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_other_heads_beside_the_decoder_are_left_out_and_named(tmp_path, caplog, prefix):
    extra = np.zeros((1, 16), np.float32)
    others = {"v_head.summary.weight": extra, "score.weight": extra, "vision.layers.0.norm.weight": extra}
    params = stored_as(tmp_path, lambda tensors: with_prefix(prefix)(tensors) | others)
    shapes = shapes_and_shardings()[0]
    assert sorted(find_stored(tmp_path, shapes, num_layers=2).left_out) == sorted(others)
    assert_equal_trees(load(tmp_path), params)
    with caplog.at_level("WARNING", logger="oddsmill"):
        check_stored(tmp_path, shapes, num_layers=2)
    (message,) = caplog.messages
    assert message == f"{tmp_path}: left out, since no decoder has them: {'; '.join(sorted(others))}"


@pytest.mark.parametrize("wrapper", ["ref_model", "a"])  # tensors are stored by name
def test_of_two_decoders_the_one_without_a_wrapper_is_read(tmp_path, wrapper):
    def rename(tensors):
        return tensors | {f"{wrapper}.{name}": np.zeros_like(tensor) for name, tensor in tensors.items()}

    params = stored_as(tmp_path, rename)
    assert_equal_trees(load(tmp_path), params)


def test_two_decoders_below_wrappers_are_refused(tmp_path):
    stored_as(tmp_path, lambda tensors: {f"{name}.{key}": tensors[key] for key in tensors for name in ("a", "b")})
    with pytest.raises(Refused, match=r"holds several decoders: a\.model\.…, b\.model\.…"):
        load(tmp_path)


@pytest.mark.parametrize("prefix", ["", "a."])
def test_what_the_head_adds_to_its_matrix_is_not_left_out(tmp_path, prefix):
    def rename(tensors):
        return with_prefix(f"{prefix}model.", f"{prefix}lm_head.weight")(tensors) | {
            f"{prefix}lm_head.bias": np.ones(tensors["lm_head.weight"].shape[0], np.float32)
        }

    stored_as(tmp_path, rename)
    with pytest.raises(Refused, match=r"unexpected lm_head\.bias"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["model.embed_positions.weight", "model.layers.2.norm.weight", "model.layers.0.new"])
def test_what_is_left_over_inside_the_decoder_is_another_architecture(tmp_path, name):
    stored_as(tmp_path, lambda tensors: tensors | {name: np.zeros((2, 2), np.float32)})
    with pytest.raises(Refused, match=f"unexpected {name}"):
        load(tmp_path)


def test_a_model_without_its_head_is_refused_with_what_to_do(tmp_path):
    def rename(tensors):
        del tensors["lm_head.weight"]
        return tensors | {"score.weight": np.zeros((1, 16), np.float32)}

    stored_as(tmp_path, rename)
    with pytest.raises(Refused) as refusal:
        load(tmp_path)
    message = str(refusal.value)
    assert "missing lm_head.weight; it is the model without its head. If the head is the embedding, set" in message
    assert message.endswith("beside them score.weight, which no decoder has")


def test_every_weight_has_the_dtype_of_its_tensor(tmp_path):
    stored_as(tmp_path, lambda tensors: {**tensors, "model.norm.weight": tensors["model.norm.weight"].astype("f2")})
    paths = set(flatten_dict(shapes_and_shardings()[0]))
    found = stored_dtypes(tmp_path, paths, num_layers=2)
    assert set(found) == paths and [path for path in paths if found[path] == np.float16] == [("norm", "weight")]
