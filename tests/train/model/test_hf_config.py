"""config.json: what changes the result is obeyed or refused by name."""

import os

import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.train.model.hf_config import parse_config, read_config
from tests.train.decoders import TINY


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
        ({"attention_dropout": 1.0}, "attention_dropout=1.0: must be in"),
        ({"embd_pdrop": 0.1}, "embd_pdrop"),
        ({"model_type": "gemma", "use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"attn_logit_softcapping": 5.0}, "attn_logit_softcapping"),
        ({"model_type": "qwen3", "layer_types": ["full_attention", "chunked_attention"]}, "layer_types"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0, "beta_fast": 3}}, "beta_fast"),
        ({"rope_scaling": {"rope_type": "linear"}}, "lack factor"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0}}, "lack low_freq_factor"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}},
            "lack original_max_position_embeddings",
        ),
        ({"rope_parameters": {"full_attention": {}, "sliding_attention": {}}}, "full_attention, sliding_attention"),
        ({"model_type": "gemma3_text", "rope_parameters": {"rope_theta": 1e6}}, "must hold full_attention"),
        ({"model_type": "gemma3_text", "rope_scaling": {"type": "linear", "factor": 8.0}}, "name the field rope_type"),
        (
            {"model_type": "phi3", "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            "'linear' of phi3 is not supported",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 has no meaning in llama"),
        ({"model_type": "gemma2", "hidden_activation": "gelu"}, "hidden_activation='gelu'"),
        ({"model_type": "gemma3_text", "attn_logit_softcapping": 5.0}, "attn_logit_softcapping"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window=0"),
        ({"model_type": "gemma2", "sliding_window": None}, "no sliding_window"),
        ({"model_type": "qwen2", "layer_types": ["sliding_attention"] * 2}, "no sliding_window"),
        ({"model_type": "mistral", "layer_types": ["full_attention"] * 2}, "layer_types has no meaning in mistral"),
        ({"num_key_value_heads": 3}, "3 key-value heads"),
        ({"head_dim": 5}, "head_dim"),
        ({"num_attention_heads": 1000, "num_key_value_heads": 1000, "head_dim": None}, "too small for 1000 attention"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(changes, named):
    with pytest.raises(Refused, match=named):
        parse_config({**TINY, **changes}, path="config.json")


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({"model_type": "mistral", "sliding_window": 8}, (8, 8)),
        ({"model_type": "mistral", "sliding_window": None}, (None, None)),
        ({"model_type": "mistral"}, (4096, 4096)),
        ({"model_type": "phi3"}, (None, None)),
        ({"model_type": "qwen3", "use_sliding_window": True, "max_window_layers": 0}, (4096, 4096)),
        ({"model_type": "qwen2", "sliding_window": 8, "use_sliding_window": False}, (None, None)),
        ({"model_type": "qwen2", "sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1}, (None, 8)),
        ({"model_type": "gemma2", "sliding_window": 8}, (8, None)),
        ({"model_type": "gemma3_text", "sliding_window": 8, "sliding_window_pattern": 2}, (8, None)),
        ({"model_type": "gemma3_text", "sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]},
         (None, 8)),
        ({"sliding_window": 8}, (None, None)),
    ],
)  # fmt: skip
def test_windows_of_each_layer(changes, windows):
    assert parse_config({**TINY, **changes}, path="x")[0].windows == windows


def test_fields_that_a_family_does_not_have_change_nothing():
    """transformers' classes do not read them either."""
    for family in ("mistral", "phi3"):
        plain = parse_config({**TINY, "model_type": family}, path="x")[0]
        assert parse_config({**TINY, "model_type": family, "attention_bias": True}, path="x")[0] == plain
    gemma2 = parse_config({**TINY, "model_type": "gemma2"}, path="x")[0]
    assert parse_config({**TINY, "model_type": "gemma2", "hidden_act": "silu"}, path="x")[0] == gemma2
    gemma = parse_config({**TINY, "model_type": "gemma"}, path="x")[0]
    assert parse_config({**TINY, "model_type": "gemma", "hidden_activation": "silu"}, path="x")[0] == gemma
    assert parse_config({**TINY, "query_pre_attn_scalar": 9}, path="x")[0] == parse_config(TINY, path="x")[0]


def test_unknown_fields_are_listed():
    assert parse_config({**TINY, "frobnication": 1, "bos_token_id": 0}, path="x")[1] == ["frobnication"]


def test_files_that_are_no_config_are_refused(tmp_path):
    with pytest.raises(Refused, match="no such file"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(Refused, match=r"holds \[1\], no object"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(Refused, match="it is no JSON"):
        read_config(tmp_path / "config.json")
    with pytest.raises(Refused, match="lacks hidden_size"):
        parse_config({"model_type": "llama", "vocab_size": 3, "intermediate_size": 2, "num_hidden_layers": 1,
                      "num_attention_heads": 1}, path="x")  # fmt: skip


@pytest.mark.parametrize(
    "content", ["[" * 10**5, '{"a": 1, "a": 2}', "[]", "", "\ud800", "{", '{"a": ' + "9" * 5000 + "}"]
)
def test_a_config_that_is_no_json_object_is_refused_by_name(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(Refused, match=rf"^{path} is damaged .*; fetch the model again$"):
        read_config(tmp_path)


def test_a_config_that_is_no_file_is_refused_and_waited_for_by_nobody(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(Refused, match="no such file; give a Hugging Face"):
        read_config(tmp_path)


@pytest.mark.parametrize("value", [2**24 + 1, 10**9, 2**40, -1, 0, 8.0, "8", True, None, [8], float("nan"), 1e400])
def test_a_size_that_no_model_has_is_refused_by_name_before_memory_is_asked_for(value):
    sizes = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    for name in (*sizes, "num_key_value_heads", "head_dim"):
        if value is not None or name in sizes:
            with pytest.raises(Refused, match=rf"config.json: {name}=.*: must be (a whole number|at most)"):
                parse_config(TINY | {name: value}, path="config.json")


def test_a_model_of_more_weights_than_any_has_is_refused():
    large = {"num_hidden_layers": 10_000, "hidden_size": 1 << 20, "intermediate_size": 1 << 24}
    with pytest.raises(Refused, match=r"a model of .* weights, more than any has: num_hidden_layers=10000, "):
        parse_config(TINY | large, path="config.json")


def test_more_heads_than_a_state_has_numbers_are_refused():
    with pytest.raises(Refused, match="hidden_size=16 is too small for 32 attention heads"):
        parse_config({**TINY, "num_attention_heads": 32}, path="x")
