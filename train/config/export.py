"""The settings of `oddsmill train export`."""

import re
from dataclasses import dataclass, field, fields
from typing import Literal

from oddsmill.schemas.errors import require
from oddsmill.train.config.devices import DistributedConfig, MeshConfig


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Exports a checkpoint of a run, adapters merged into the weights or by themselves.

    Args:
      run_dir: the folder of the run. Its data and its model must be where they were.
      out: the folder to write; new or empty.
      checkpoint: the step; null: the newest, or the best of a run with load_best_model_at_end.
      adapter: of a run with lora: the adapters alone, as PEFT has them, for the model that the run started from.
      dtype: what weights are cast to; null: what the run keeps them in.
      max_shard_size: of a safetensors file, such as 500MB or 5GB.
      mesh: how devices are arranged; null: as in the run.
      distributed: how several processes find each other.
    """

    run_dir: str
    out: str
    checkpoint: int | None = None
    adapter: bool = False
    dtype: Literal["float32", "bfloat16"] | None = None
    max_shard_size: str = "5GB"
    mesh: MeshConfig | None = None
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def __post_init__(self) -> None:
        require(
            re.fullmatch(r"[1-9]\d*(KB|MB|GB|TB)", self.max_shard_size) is not None,
            "max_shard_size",
            self.max_shard_size,
            "must be a number of KB, MB, GB or TB, such as 5GB",
        )
        for setting in fields(self):
            if self.adapter and setting.name in ("dtype", "max_shard_size"):
                value = getattr(self, setting.name)
                require(value == setting.default, setting.name, value, "has no effect on an adapter; leave it out")
