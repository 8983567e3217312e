"""config.json: what changes the result is obeyed or refused by name."""

import pytest

from schemas.errors import Refused
from tests.train.decoders import TINY
from train.hf_config import parse_config, read_config


def test_both_generations_mean_the_same():
    old = {**TINY, "rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
           "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}  # fmt: skip
    new = {**TINY, "rope_parameters": {"rope_theta": 5e5, **old["rope_scaling"]}}
    assert parse_config(old, path="a")[0] == parse_config(new, path="b")[0]
    assert parse_config(old, path="a")[0] != parse_config(TINY, path="b")[0]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_dropout": 0.1}, "attention_dropout"),
        ({"model_type": "mistral", "sliding_window": 8}, "sliding_window"),
        ({"model_type": "qwen2", "sliding_window": 8, "use_sliding_window": True}, "sliding_window"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0, "beta_fast": 3}}, "beta_fast"),
        ({"num_key_value_heads": 3}, "3 key-value heads"),
        ({"head_dim": 5}, "head_dim"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(changes, named):
    with pytest.raises(Refused, match=named):
        parse_config({**TINY, **changes}, path="config.json")


def test_a_window_that_is_switched_off_is_no_window():
    parse_config({**TINY, "model_type": "qwen2", "sliding_window": 8, "use_sliding_window": False}, path="x")
    parse_config({**TINY, "model_type": "mistral", "sliding_window": None}, path="x")


def test_unknown_fields_are_listed():
    assert parse_config({**TINY, "frobnication": 1, "bos_token_id": 0}, path="x")[1] == ["frobnication"]


def test_files_that_are_no_config_are_refused(tmp_path):
    with pytest.raises(Refused, match="no such file"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(Refused, match="a JSON object is needed"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(Refused, match="cannot be read as JSON"):
        read_config(tmp_path / "config.json")
    with pytest.raises(Refused, match="lacks hidden_size"):
        parse_config({"model_type": "llama", "vocab_size": 3, "intermediate_size": 2, "num_hidden_layers": 1,
                      "num_attention_heads": 1}, path="x")  # fmt: skip
