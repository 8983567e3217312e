"""Our weights' paths and Hugging Face's names."""

import jax
import pytest
from flax.traverse_util import flatten_dict

from oddsmill.train.model.names import hf_names, is_stacked
from tests.train.decoders import decoder_config, split_decoder


@pytest.mark.parametrize(
    ("path", "names"),
    [
        (("embed_tokens", "weight"), ["model.embed_tokens.weight"]),
        (("norm", "weight"), ["model.norm.weight"]),
        (("lm_head", "weight"), ["lm_head.weight"]),
        (("layers", "mlp", "up_proj"), ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"]),
        (("layers", "self_attn", "q_proj", "bias"), [f"model.layers.{i}.self_attn.q_proj.bias" for i in (0, 1)]),
    ],
)
def test_a_path_has_its_hugging_face_names(path, names):
    assert hf_names(path, 2) == names


def test_the_stacked_weights_are_those_with_a_leading_axis_of_layers():
    """The hidden size is none of the other sizes, so a leading 3 is the number of layers."""
    params = jax.eval_shape(lambda: split_decoder(decoder_config(num_hidden_layers=3))[1])
    for path, leaf in flatten_dict(params).items():
        assert is_stacked(path) == (leaf.shape[0] == 3) == (len(hf_names(path, 3)) == 3), path
