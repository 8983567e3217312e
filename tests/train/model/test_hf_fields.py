"""config.json with values of the wrong kind: one message that names file and field, whatever stands there."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsmill.schemas.errors import Refused
from oddsmill.train.model.hf_config import num_parameters, parse_config
from oddsmill.train.model.hf_fields import check_fields
from oddsmill.train.model.rope import rope_frequencies
from tests.train.decoders import TINY

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
FULL = {
    **TINY, "head_dim": 4, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "rope_scaling": LLAMA3, "hidden_act": "silu",
    "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False, "sliding_window": 8,
    "use_sliding_window": True, "max_window_layers": 1, "layer_types": ["full_attention", "sliding_attention"],
    "max_position_embeddings": 64, "attention_dropout": 0.0, "pad_token_id": 0,
}  # fmt: skip
GEMMA3 = {
    **TINY, "model_type": "gemma3_text", "head_dim": 4, "sliding_window": 8, "sliding_window_pattern": 2,
    "query_pre_attn_scalar": 4, "rope_local_base_freq": 1e4, "final_logit_softcapping": 3.0,
    "hidden_activation": "gelu_pytorch_tanh",
    "rope_parameters": {"full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
                        "sliding_attention": {"rope_theta": 1e4}},
}  # fmt: skip
BASES = [FULL, {**FULL, "model_type": "qwen3"}, {**TINY, "model_type": "phi3", "partial_rotary_factor": 0.5}, GEMMA3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": ["llama"]}, "model_type ['llama'] is not supported"),
        ({"hidden_size": "64"}, 'hidden_size="64": must be a whole number of at least 1'),
        ({"hidden_size": None}, "hidden_size=null: must be a whole number of at least 1"),
        ({"hidden_size": 64.0}, "hidden_size=64.0: must be"),
        ({"hidden_size": True}, "hidden_size=true: must be"),
        ({"num_attention_heads": 0}, "num_attention_heads=0: must be"),
        ({"num_attention_heads": None}, "num_attention_heads=null: must be"),
        ({"num_key_value_heads": "2"}, 'num_key_value_heads="2": must be a whole number of at least 1 or null'),
        ({"num_hidden_layers": -1}, "num_hidden_layers=-1: must be"),
        ({"vocab_size": 10**20}, "vocab_size=100000000000000000000: must be"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps=NaN: must be a number of at least 0"),
        ({"rope_theta": 0}, "rope_theta=0: must be a number above 0"),
        ({"rope_scaling": 5}, "rope_scaling=5: must be an object or null"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "2"}}, 'rope_scaling: factor="2": must be a number above'),
        ({"rope_scaling": {"rope_type": ["linear"]}}, 'rope_scaling: rope_type=["linear"]: must be a text'),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": 4.0}}, "low_freq_factor of the rope settings must be below"),
        ({"rope_parameters": {"full_attention": 5}}, "rope_parameters: full_attention=5: must be an object or null"),
        ({"tie_word_embeddings": "yes"}, 'tie_word_embeddings="yes": must be true or false or null'),
        ({"layer_types": "full_attention"}, 'layer_types="full_attention": must be a list of texts'),
        ({"layer_types": [["full_attention"]] * 9}, 'layer_types=[["full_attention"]'),
        ({"model_type": "qwen3", "layer_types": ["full_attention"]}, "layer_types must name each of 2 layers"),
        ({"model_type": "qwen3", "max_window_layers": None}, "max_window_layers=null: must be a whole number"),
        ({"model_type": "gemma3_text", "sliding_window_pattern": 0}, "sliding_window_pattern=0: must be"),
        ({"model_type": "phi3", "partial_rotary_factor": 2}, "partial_rotary_factor=2: must be a number above 0 and"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_its_field(changes, message):
    with pytest.raises(Refused) as refusal:
        parse_config({**TINY, **changes}, path="folder/config.json")
    assert str(refusal.value).startswith("folder/config.json: ") and message in str(refusal.value)
    assert len(str(refusal.value)) < 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "silu", "linear", "llama3"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["factor", "rope_type"]), inner),
    max_leaves=3,
)


@given(base=st.sampled_from(BASES), data=st.data())
def test_no_value_of_any_field_gives_anything_but_a_sound_decoder_or_a_refusal(base, data):
    config = json.loads(json.dumps(base))
    place, path = config, []
    while not path or (isinstance(place[path[-1]], dict) and data.draw(st.booleans())):
        place = place[path[-1]] if path else place
        path.append(data.draw(st.sampled_from(sorted(place))))
    place[path[-1]] = data.draw(JSON)
    try:
        decoder, _ = parse_config(config, path="folder/config.json")
    except Refused:
        return
    assert num_parameters(decoder) > 0
    for rope in decoder.ropes:
        assert np.isfinite(rope_frequencies(rope, decoder.head_dim)).all()


@pytest.mark.parametrize("layers", [10_001, 10**9])
def test_more_layers_than_any_model_has_are_refused(layers):
    with pytest.raises(Refused, match=rf"num_hidden_layers={layers}: must be a whole number from 1 to 10,000"):
        check_fields({**TINY, "num_hidden_layers": layers}, path="config.json")
    check_fields({**TINY, "num_hidden_layers": 10_000}, path="config.json")
