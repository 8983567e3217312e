"""Stage two: rows to weights. A Grain loader feeds a sharded Flax trainer with the ORPO loss."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oddsmill.train.config.devices import DistributedConfig, MeshConfig
    from oddsmill.train.config.model import LoraConfig, ModelConfig
    from oddsmill.train.config.orpo_config import ORPOConfig
    from oddsmill.train.trainer import ORPOTrainer

__all__ = ["DistributedConfig", "LoraConfig", "MeshConfig", "ModelConfig", "ORPOConfig", "ORPOTrainer"]


def __getattr__(name: str) -> Any:
    # On first use: the trainer's libraries take seconds to import, and `oddsmill train --help` needs none.
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    homes = {
        "DistributedConfig": "oddsmill.train.config.devices",
        "LoraConfig": "oddsmill.train.config.model",
        "MeshConfig": "oddsmill.train.config.devices",
        "ModelConfig": "oddsmill.train.config.model",
        "ORPOConfig": "oddsmill.train.config.orpo_config",
        "ORPOTrainer": "oddsmill.train.trainer",
    }
    return getattr(import_module(homes[name]), name)
