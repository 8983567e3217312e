"""`python -m train export`: a checkpoint of a run in, a Hugging Face folder out."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from schemas.errors import Refused, require
from train.distributed import DistributedConfig
from train.export import export_model
from train.lora import merge_lora
from train.restoring import restore_run
from train.sharding import MeshConfig


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Exports a checkpoint of a run; adapters are merged into the weights.

    Args:
      run_dir: the folder of the run. Its data and its model must be where they were.
      out: the folder to write; new or empty.
      checkpoint: the step; null: the newest.
      dtype: what weights are cast to; null: what the run keeps them in.
      max_shard_size: of a safetensors file, such as 500MB or 5GB.
      mesh: how devices are arranged; null: as in the run.
      distributed: how several processes find each other.
    """

    run_dir: str
    out: str
    checkpoint: int | None = None
    dtype: Literal["bfloat16", "float32"] | None = None
    max_shard_size: str = "5GB"
    mesh: MeshConfig | None = None
    distributed: DistributedConfig = DistributedConfig()

    def __post_init__(self) -> None:
        require(
            re.fullmatch(r"[1-9]\d*(KB|MB|GB|TB)", self.max_shard_size) is not None,
            "max_shard_size",
            self.max_shard_size,
            "must be a number of KB, MB, GB or TB, such as 5GB",
        )


def export_run(config: ExportConfig) -> int:
    """Exports a checkpoint of a run; returns its step.

    Raises:
      Refused: no such run or checkpoint, or a folder of that name that is not empty.
      RunFailed: the folder cannot be written.
    """
    out = Path(config.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Refused(f"--out={out} exists and is not empty; give another folder")
    restored = restore_run(
        config.run_dir,
        command="python -m train export",
        checkpoint=config.checkpoint,
        mesh=config.mesh,
        distributed=config.distributed,
    )
    export_model(
        out,
        params=merge_lora(restored.params, restored.frozen, restored.config.lora),
        config=restored.config,
        run=restored.run,
        step=restored.step,
        dtype=config.dtype,
        max_shard_size=config.max_shard_size,
    )
    return restored.step
