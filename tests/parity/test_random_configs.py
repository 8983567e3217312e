"""Random configurations of every family give the logits of live transformers, in float32 and eager attention.

The tolerance is that of the goldens: atol 5e-5, rtol 1e-4 (logits are of the order of 1 to 10).
"""

import json
import random
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from oddsmill.train.config.devices import MeshConfig
from oddsmill.train.model.decoder import Decoder
from oddsmill.train.model.hf_config import parse_config, read_config
from oddsmill.train.parallel.sharding import make_mesh, param_shardings
from oddsmill.train.weights.huggingface import load_params

Config = dict[str, Any]
CASES = 20
LENGTH = 24
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3_text")
GEMMAS = ("gemma", "gemma2", "gemma3_text")
# Fields that a config.json may lack; then transformers' default holds, which ours must be too.
OPTIONAL = {
    "head_dim", "num_key_value_heads", "rms_norm_eps", "hidden_act", "hidden_activation", "tie_word_embeddings",
    "attention_bias", "mlp_bias", "sliding_window", "max_window_layers", "layer_types", "sliding_window_pattern",
    "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping", "rope_theta",
    "rope_local_base_freq", "partial_rotary_factor", "use_sliding_window", "rope_scaling",
}  # fmt: skip


def draw_scaling(rng: random.Random, kinds: tuple[str, ...]) -> Config | None:
    kind = rng.choice((None, "default", *kinds))
    if kind == "linear":
        return {"rope_type": "linear", "factor": rng.choice([1.5, 2.0, 8.0])}
    if kind == "llama3":
        return {
            "rope_type": "llama3",
            "factor": rng.choice([4.0, 8.0, 32.0]),
            "low_freq_factor": rng.choice([1.0, 0.5]),
            "high_freq_factor": rng.choice([2.0, 4.0]),
            # Short enough that within LENGTH positions some frequencies are kept, some divided, some between.
            "original_max_position_embeddings": rng.choice([16, 64, 8192]),
        }
    return kind and {"rope_type": kind}


def draw_config(family: str, rng: random.Random) -> Config:
    """A config.json in the form of transformers 4; every field that the family obeys is drawn."""
    heads = rng.choice([1, 2, 4, 8])
    layers = rng.choice([1, 2, 3, 5])
    config: Config = {
        "model_type": family,
        "vocab_size": rng.choice([67, 96]),
        "hidden_size": heads * rng.choice([4, 6, 8, 16]),
        "intermediate_size": rng.choice([20, 33, 48]),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": rng.choice([count for count in (1, 2, 4, 8) if heads % count == 0]),
        "head_dim": rng.choice([2, 4, 6, 8, 10, 16]),
        "rms_norm_eps": rng.choice([1e-6, 1e-5, 1e-2]),
        "tie_word_embeddings": rng.random() < 0.5,
        "rope_theta": rng.choice([100.0, 1e4, 5e5, 1e6]),
        # Fields of other parts of a config.json, and of other families: they must change nothing.
        "max_position_embeddings": 128,
        "use_cache": False,
        "initializer_range": rng.choice([0.02, 0.5]),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if family in ("gemma2", "gemma3_text"):
        config["hidden_activation"] = rng.choice(["gelu_pytorch_tanh", "silu"])
    else:
        config["hidden_act"] = rng.choice(["silu", "gelu_pytorch_tanh", "gelu_new", *["gelu"] * (family == "gemma")])
    # In the families that have no such biases the field is without effect.
    config["attention_bias"] = rng.random() < 0.5
    config["mlp_bias"] = rng.random() < 0.5
    kinds = {"phi3": (), "gemma3_text": ("linear",)}.get(family, ("linear", "llama3"))
    scaling = draw_scaling(rng, kinds)
    if scaling:
        config["rope_scaling"] = scaling
        if family != "gemma3_text" and rng.random() < 0.3:
            scaling["type"] = scaling.pop("rope_type")
    if family == "phi3":
        config["partial_rotary_factor"] = rng.choice([0.4, 0.5, 0.75, 1.0])
    if family == "gemma3_text":
        config["rope_local_base_freq"] = rng.choice([50.0, 1e4])
        config["sliding_window_pattern"] = rng.choice([2, 3, 6])
    if family in ("gemma2", "gemma3_text"):
        config["query_pre_attn_scalar"] = rng.choice([1, 9, 24, 256])
        config["final_logit_softcapping"] = rng.choice([None, 2.0, 30.0])
    if family == "gemma2":
        config["attn_logit_softcapping"] = rng.choice([None, 1.0, 50.0])
    if family not in ("llama", "gemma"):
        windows = [1, 2, 5, LENGTH - 1, LENGTH, 4 * LENGTH]
        config["sliding_window"] = rng.choice(windows + [None] * 2 * (family not in ("gemma2", "gemma3_text")))
    if family in ("qwen2", "qwen3"):
        config["use_sliding_window"] = rng.random() < 0.8
        config["max_window_layers"] = rng.randrange(layers + 1)
    windowed = config.get("sliding_window") and config.get("use_sliding_window", True)
    if family in ("qwen2", "qwen3", "gemma2", "gemma3_text") and rng.random() < 0.4:
        config["layer_types"] = rng.choices(
            ["full_attention", "sliding_attention"] if windowed else ["full_attention"], k=layers
        )
    for name in sorted(OPTIONAL & set(config)):
        if rng.random() < 0.15 and not (name == "num_key_value_heads" and family not in ("llama", "phi3")):
            del config[name]
    return config


def in_new_form(config: Config) -> Config:
    """The same in the form of transformers 5: what is about rope stands in `rope_parameters`."""
    rope_fields = ("rope_theta", "rope_scaling", "rope_local_base_freq", "partial_rotary_factor")
    new = {name: value for name, value in config.items() if name not in rope_fields}
    parameters = dict(config.get("rope_scaling", {}))
    parameters.setdefault("rope_type", parameters.pop("type", "default"))
    parameters |= {name: config[name] for name in ("rope_theta", "partial_rotary_factor") if name in config}
    if config["model_type"] == "gemma3_text":
        local: Config = {"rope_type": "default"}
        if "rope_local_base_freq" in config:
            local["rope_theta"] = config["rope_local_base_freq"]
        return {**new, "rope_parameters": {"full_attention": parameters, "sliding_attention": local}}
    return {**new, "rope_parameters": parameters}


def live_model(config: Config, folder: Path) -> transformers.PreTrainedModel:
    """transformers' model of a config.json."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    read = transformers.AutoConfig.from_pretrained(folder)
    return transformers.AutoModelForCausalLM.from_config(read, attn_implementation="eager", dtype=torch.float32).eval()


def randomise(model: transformers.PreTrainedModel, seed: int) -> None:
    """Norms and biases too: as they are made, ones and zeros, a mistake in them would not show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator)
            if "norm" in name:
                weight.add_(0.2 * noise)
            else:
                weight.copy_((0.3 if weight.ndim == 1 else 0.15) * noise)


def live_logits(model: transformers.PreTrainedModel, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(ids), use_cache=False).logits.numpy()


@pytest.mark.parametrize("case", range(CASES))
@pytest.mark.parametrize("family", FAMILIES)
def test_a_random_config_gives_the_logits_of_transformers(family, case, tmp_path):
    rng = random.Random(f"{family} {case}")
    old = draw_config(family, rng)
    new = in_new_form(old)
    print(json.dumps(old))  # shown where the test fails
    model = live_model(new, tmp_path / "new")
    randomise(model, case)
    model.save_pretrained(tmp_path / "saved")
    ids = np.array([[rng.randrange(old["vocab_size"]) for _ in range(LENGTH)] for _ in range(2)])
    reference = live_logits(model, ids)

    # transformers itself takes both forms for one model; and so do we, and the one that it writes.
    twin = live_model(old, tmp_path / "old")
    twin.load_state_dict(model.state_dict())
    assert np.array_equal(live_logits(twin, ids), reference)
    config, unused = parse_config(read_config(tmp_path / "saved"), path="saved")
    assert not unused
    assert parse_config(old, path="old")[0] == config
    assert parse_config(new, path="new")[0] == config

    definition, weights = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    shapes = nnx.to_pure_dict(weights)
    shardings = param_shardings(shapes, make_mesh(MeshConfig()))
    params = load_params(tmp_path / "saved", shapes, shardings, num_layers=config.num_hidden_layers)
    position = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), ids.shape)

    @jax.jit
    def logits(params):
        decoder = nnx.merge(definition, params)
        return decoder.logits(decoder(ids, position, np.full_like(position, LENGTH)))

    np.testing.assert_allclose(logits(params), reference, atol=5e-5, rtol=1e-4)
