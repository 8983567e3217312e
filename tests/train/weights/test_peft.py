"""The adapter folder holds what `peft` reads; tests/parity/test_lora_peft.py has `peft` read it."""

import json

import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from oddsmill.train.config.model import LoraConfig, ModelConfig
from oddsmill.train.model.decoder import Decoder
from oddsmill.train.model.frozen import split_params
from oddsmill.train.model.lora import add_adapters, is_adapter
from oddsmill.train.weights.peft import save_adapter
from tests.train.decoders import decoder_config


def test_every_layer_of_every_target_has_its_two_matrices_under_pefts_names(tmp_path):
    lora = LoraConfig(rank=2, alpha=6.0, dropout=0.1, target_modules=["q_proj", "mlp.up_proj"])
    decoder = Decoder(decoder_config(), rngs=nnx.Rngs(0))
    weights = nnx.to_pure_dict(nnx.split(add_adapters(decoder, lora, param_dtype=jnp.float32, rngs=nnx.Rngs(1)))[1])
    params, _ = split_params(weights, {path for path in flatten_dict(weights) if not is_adapter(path)})
    base = ModelConfig(path="org/name", revision="main")
    save_adapter(tmp_path, params, lora, num_layers=2, base_model=base, is_writer=False)
    assert not list(tmp_path.iterdir())
    save_adapter(tmp_path, params, lora, num_layers=2, base_model=base, is_writer=True)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    modules = [f"model.layers.{layer}.{name}" for layer in (0, 1) for name in ("self_attn.q_proj", "mlp.up_proj")]
    assert set(stored) == {f"base_model.model.{name}.lora_{side}.weight" for name in modules for side in "AB"}
    np.testing.assert_array_equal(
        stored["base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"],
        params["layers"]["mlp"]["up_proj"]["adapter"]["lora_A"][1],
    )
    assert (tmp_path / "adapter_model.safetensors").stat().st_mode & 0o777 == 0o644
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (2, 6, 0.1)
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/name", "main")
    assert config["target_modules"] == ["q_proj", "up_proj"]
