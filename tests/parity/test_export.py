"""What transformers wrote comes out of us bit for bit, and transformers and its tokenizer load it: every family."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from oddsmill.schemas.manifest import read_manifest
from oddsmill.train.config.devices import MeshConfig
from oddsmill.train.model.decoder import Decoder
from oddsmill.train.model.hf_config import parse_config, read_config
from oddsmill.train.parallel.sharding import make_mesh, param_shardings
from oddsmill.train.weights.export import export_model
from oddsmill.train.weights.huggingface import load_params
from oddsmill.train.weights.model_files import ModelFiles
from tests.datasets import packed, random_pairs, write_dataset

SHAPE: dict[str, Any] = {
    "vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (transformers.LlamaConfig, {"tie_word_embeddings": False, "attention_bias": True}),
    "llama-tied": (transformers.LlamaConfig, {"tie_word_embeddings": True}),
    "mistral": (transformers.MistralConfig, {"sliding_window": 8}),
    "qwen2": (transformers.Qwen2Config, {}),
    "qwen3": (transformers.Qwen3Config, {"tie_word_embeddings": True}),
    "phi3": (transformers.Phi3Config, {}),
    "gemma": (transformers.GemmaConfig, {}),
    "gemma2": (transformers.Gemma2Config, {"sliding_window": 8, "query_pre_attn_scalar": 8}),
    "gemma3": (transformers.Gemma3TextConfig, {"sliding_window": 8, "query_pre_attn_scalar": 8}),
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("family", FAMILIES)
def test_load_export_load_in_transformers(family, dtype, make_tokenizer, tmp_path):
    torch.manual_seed(0)
    config_class, changes = FAMILIES[family]
    original = transformers.AutoModelForCausalLM.from_config(config_class(**{**SHAPE, **changes}))
    original.to(getattr(torch, dtype)).save_pretrained(tmp_path / "original", max_shard_size="40KB")
    # Read again: the cast above reached the rotary frequencies too, which transformers keeps in float32.
    original = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "original", dtype="auto")
    # Named, or transformers takes the family's own class, which changes the tokens.
    tokenizer_folder = make_tokenizer(tmp_path / "tokenizer", tokenizer_class="PreTrainedTokenizerFast")
    exported = exported_by_us(tmp_path, tokenizer_folder, dtype)

    loaded, report = transformers.AutoModelForCausalLM.from_pretrained(exported, dtype="auto", output_loading_info=True)
    assert not any(report.values()), report
    assert loaded.dtype == getattr(torch, dtype)
    assert read_config(exported) == read_config(tmp_path / "original")
    weights = original.state_dict()
    assert loaded.state_dict().keys() == weights.keys()
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    ids = torch.arange(2 * 20).reshape(2, 20) % SHAPE["vocab_size"]
    with torch.no_grad():
        assert torch.equal(loaded.eval()(ids).logits, original(ids).logits)
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    assert tokenizer.decode(tokenizer("a small cat")["input_ids"]) == "a small cat"
    assert tokenizer.eos_token_id == loaded.generation_config.eos_token_id == 2


def exported_by_us(folder: Path, tokenizer_folder: Path, dtype: str) -> Path:
    """The folder's `original`, loaded and exported without a step between."""
    hf_config = read_config(folder / "original")
    decoder = parse_config(hf_config, path="test")[0]
    abstract = nnx.eval_shape(lambda: Decoder(decoder, rngs=nnx.Rngs(0), param_dtype=jnp.dtype(dtype)))
    shapes = nnx.to_pure_dict(nnx.split(abstract)[1])
    shardings = param_shardings(shapes, make_mesh(MeshConfig()))
    params = load_params(folder / "original", shapes, shardings, num_layers=decoder.num_hidden_layers)
    rows = packed(random_pairs(np.random.default_rng(0), 4, vocab_size=400), 32)
    write_dataset(folder / "data", {"train": rows}, row_length=32, vocab_size=400, eos_id=2)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "data" / "tokenizer" / name).write_bytes((tokenizer_folder / name).read_bytes())
    export_model(
        folder / "exported", params=params, model=ModelFiles(folder / "original", hf_config, decoder),
        tokenizer_folder=folder / "data" / "tokenizer", tokenizer=read_manifest(folder / "data").tokenizer, card="",
        max_shard_size="50KB",
    )  # fmt: skip
    return folder / "exported"
