"""Stage two: rows to weights. A Grain loader feeds a sharded Flax trainer with the ORPO loss."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oddsmill.train.config.train_config import LoraConfig, ModelConfig
    from oddsmill.train.parallel.processes import DistributedConfig
    from oddsmill.train.parallel.sharding import MeshConfig
    from oddsmill.train.trainer import ORPOConfig, ORPOTrainer

__all__ = ["DistributedConfig", "LoraConfig", "MeshConfig", "ModelConfig", "ORPOConfig", "ORPOTrainer"]


def __getattr__(name: str) -> Any:
    # On first use: the trainer's libraries take seconds to import, and `oddsmill train --help` needs none.
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    homes = {
        "DistributedConfig": "oddsmill.train.parallel.processes",
        "LoraConfig": "oddsmill.train.config.train_config",
        "MeshConfig": "oddsmill.train.parallel.sharding",
        "ModelConfig": "oddsmill.train.config.train_config",
    }
    return getattr(import_module(homes.get(name, "oddsmill.train.trainer")), name)
