"""The adapter folder through `peft` itself: the logits of our decoder with adapters."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
import transformers
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from oddsmill.train.config.model import LoraConfig, ModelConfig
from oddsmill.train.model.decoder import Decoder
from oddsmill.train.model.frozen import join_params, split_params
from oddsmill.train.model.hf_config import parse_config
from oddsmill.train.model.lora import add_adapters, is_adapter
from oddsmill.train.weights.huggingface import save_params
from oddsmill.train.weights.peft import save_adapter

CONFIG = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("llama", None),
        ("llama", ["q_proj", r".*\.mlp\.up_proj"]),
        ("phi3", None),
        ("phi3", ["qkv_proj", "gate_up_proj"]),
    ],
)
def test_peft_gives_the_same_logits(tmp_path, family, targets, use_rslora):
    raw = {
        **CONFIG,
        "model_type": family,
        "architectures": [{"llama": "Llama", "phi3": "Phi3"}[family] + "ForCausalLM"],
    }
    config = parse_config(raw, path="test")[0]
    lora = LoraConfig(rank=4, alpha=6.0, target_modules=targets, use_rslora=use_rslora)
    rngs = nnx.Rngs(0)
    decoder = add_adapters(Decoder(config, rngs=rngs), lora, param_dtype=jnp.float32, rngs=rngs)
    definition, weights = nnx.split(decoder)
    flat = flatten_dict(nnx.to_pure_dict(weights))
    for index, path in enumerate(sorted(flat)):
        if path[-1] == "lora_B":
            flat[path] = 0.2 * jax.random.normal(jax.random.key(index), flat[path].shape)
    params, base = split_params(unflatten_dict(flat), {path for path in flat if not is_adapter(path)})

    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(raw))
    save_params(base, model, num_layers=config.num_hidden_layers)
    (tmp_path / "adapter").mkdir()
    save_adapter(
        tmp_path / "adapter",
        params,
        lora,
        num_layers=config.num_hidden_layers,
        base_model=ModelConfig(path=str(model)),
        is_writer=True,
    )

    tokens = np.random.default_rng(0).integers(3, 64, (2, 10))
    position = jnp.broadcast_to(jnp.arange(10), tokens.shape)
    decoder = nnx.merge(definition, join_params(params, base))
    ours = decoder.logits(decoder(jnp.asarray(tokens), position, jnp.full_like(position, 10)))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        plain = theirs(torch.tensor(tokens)).logits.numpy()
        adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
        found = adapted(torch.tensor(tokens)).logits.numpy()
    trained = {name for name, _ in adapted.named_parameters() if "lora_" in name}
    assert len(trained) == config.num_hidden_layers * len(flatten_dict(params))
    assert np.abs(found - plain).max() > 0.1
    np.testing.assert_allclose(ours, found, atol=2e-5, rtol=2e-5)
