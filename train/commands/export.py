"""`oddsmill train export`: a checkpoint of a run in, a Hugging Face folder out."""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from oddsmill.schemas.errors import Refused, require
from oddsmill.train.checkpoint.restoring import restore_run
from oddsmill.train.model.lora import merge_lora
from oddsmill.train.parallel.processes import DistributedConfig
from oddsmill.train.parallel.sharding import MeshConfig
from oddsmill.train.weights.export import export_adapter, export_model


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
    distributed: DistributedConfig = DistributedConfig()

    def __post_init__(self) -> None:
        require(
            re.fullmatch(r"[1-9]\d*(KB|MB|GB|TB)", self.max_shard_size) is not None,
            "max_shard_size",
            self.max_shard_size,
            "must be a number of KB, MB, GB or TB, such as 5GB",
        )
        for field in fields(self):
            if self.adapter and field.name in ("dtype", "max_shard_size"):
                value = getattr(self, field.name)
                require(value == field.default, field.name, value, "has no effect on an adapter; leave it out")


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
        command="oddsmill train export",
        checkpoint=config.checkpoint,
        mesh=config.mesh,
        distributed=config.distributed,
    )
    if config.adapter:
        if restored.config.lora is None:
            raise Refused(f"--adapter=true: the run in {config.run_dir} trained no adapters; leave it out")
        export_adapter(out, params=restored.params, config=restored.config, run=restored.run, step=restored.step)
        return restored.step
    export_model(
        out,
        params=merge_lora(restored.params, restored.frozen, restored.config.lora, dtype=config.dtype),
        config=restored.config,
        run=restored.run,
        step=restored.step,
        dtype=config.dtype,
        max_shard_size=config.max_shard_size,
    )
    return restored.step
