"""Stage two: rows to weights. A Grain loader feeds a sharded Flax trainer with the ORPO loss."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.config import LoraConfig, ModelConfig
    from train.distributed import DistributedConfig
    from train.sharding import MeshConfig
    from train.trainer import ORPOConfig, ORPOTrainer

__all__ = ["DistributedConfig", "LoraConfig", "MeshConfig", "ModelConfig", "ORPOConfig", "ORPOTrainer"]


def __getattr__(name: str) -> Any:
    # On first use: the trainer's libraries take seconds to import, and `python -m train --help` needs none.
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module 'train' has no attribute {name!r}")
    homes = {
        "DistributedConfig": "train.distributed",
        "LoraConfig": "train.config",
        "MeshConfig": "train.sharding",
        "ModelConfig": "train.config",
    }
    return getattr(import_module(homes.get(name, "train.trainer")), name)
