"""LoRA adapters as the folder that `peft` reads: `adapter_config.json` and `adapter_model.safetensors`."""

import json
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import save_file

from oddsmill.train.config.model import LoraConfig, ModelConfig
from oddsmill.train.model.lora import lora_matrices
from oddsmill.train.model.names import Params, hf_names


def save_adapter(
    folder: Path,
    params: Params,
    lora: LoraConfig,
    *,
    num_layers: int,
    base_model: ModelConfig,
    is_writer: bool,
) -> None:
    """Writes the adapters into a folder that exists. Every process calls this; one writes.

    Args:
      params: the adapters' weights, as `add_adapters` makes them.
      base_model: the model that `peft` is to load beside them.
    """
    sharding = jax.tree.leaves(params)[0].sharding
    if isinstance(sharding, NamedSharding):  # adapters are small enough to lie whole on every device
        params = jax.jit(lambda tree: tree, out_shardings=NamedSharding(sharding.mesh, PartitionSpec()))(params)
    if not is_writer:
        return
    adapters = lora_matrices(params)
    tensors = {}
    for path, matrices in adapters.items():
        for matrix, stacked in matrices.items():
            on_host = np.asarray(stacked.addressable_data(0))
            for layer, name in enumerate(hf_names(path, num_layers)):
                tensors[f"base_model.model.{name}.{matrix}.weight"] = on_host[layer]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model.path,
        "revision": base_model.revision,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.use_rslora,
        "target_modules": sorted(path[-1] for path in adapters),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    weights = folder / "adapter_model.safetensors"
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors makes files that only their owner can read
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
