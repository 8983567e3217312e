"""`python -m train export`: a checkpoint of a run in, a Hugging Face folder out."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from schemas.errors import Refused, require
from schemas.settings import load_settings
from train.checkpoint import Checkpoints
from train.config import TrainConfig
from train.export import export_adapter, export_model
from train.frozen import digest
from train.loop import CHECKPOINT_FOLDER, SETTINGS_NAME
from train.lora import merge_lora
from train.setup import prepare
from train.sharding import MeshConfig


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Exports a checkpoint of a run, adapters merged into the weights or by themselves.

    Args:
      run_dir: the folder of the run. Its data and its model must be where they were.
      out: the folder to write; new or empty.
      checkpoint: the step; null: the newest.
      adapter: of a run with lora: the adapters alone, as PEFT has them, for the model that the run started from.
      dtype: what weights are cast to; null: what the run keeps them in.
      max_shard_size: of a safetensors file, such as 500MB or 5GB.
      mesh: how devices are arranged; null: as in the run.
    """

    run_dir: str
    out: str
    checkpoint: int | None = None
    adapter: bool = False
    dtype: Literal["bfloat16", "float32"] | None = None
    max_shard_size: str = "5GB"
    mesh: MeshConfig | None = None

    def __post_init__(self) -> None:
        require(
            re.fullmatch(r"[1-9]\d*(KB|MB|GB|TB)", self.max_shard_size) is not None,
            "max_shard_size",
            self.max_shard_size,
            "must be a number of KB, MB, GB or TB, such as 5GB",
        )
        for field in dataclasses.fields(self):
            if self.adapter and field.name in ("dtype", "max_shard_size"):
                value = getattr(self, field.name)
                require(value == field.default, field.name, value, "has no effect on an adapter; leave it out")


def export_run(config: ExportConfig) -> int:
    """Exports a checkpoint of a run; returns its step.

    Raises:
      Refused: no such run or checkpoint, or a folder of that name that is not empty.
      RunFailed: the folder cannot be written.
    """
    settings = Path(config.run_dir) / SETTINGS_NAME
    if not settings.is_file():
        raise Refused(f"--run_dir={config.run_dir}: not the folder of a run, it has no {SETTINGS_NAME}")
    out = Path(config.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Refused(f"--out={out} exists and is not empty; give another folder")
    trained = load_settings(TrainConfig, ["--config", str(settings)], command="python -m train export")
    if config.adapter and trained.lora is None:
        raise Refused(f"--adapter=true: the run in {config.run_dir} trained no adapters; leave it out")
    # As it lies now: a run's folder may have been moved.
    trained = dataclasses.replace(trained, run_dir=config.run_dir, mesh=config.mesh or trained.mesh)
    run = prepare(trained)
    checkpoints = Checkpoints(
        Path(config.run_dir) / CHECKPOINT_FOLDER, identity=run.identity, save_total_limit=trained.save_total_limit
    )
    try:
        checkpoints.check_identity()
        step = checkpoints.find_step(config.checkpoint)
        frozen = run.initial_weights()[1] if run.has_frozen_weights else {}
        params = checkpoints.restore_params(step, run.abstract_state["params"], frozen_digest=digest(frozen))
    finally:
        checkpoints.close()
    if config.adapter:
        export_adapter(out, params=params, config=trained, run=run, step=step)
        return step
    export_model(
        out,
        params=merge_lora(params, frozen, trained.lora, dtype=config.dtype),
        config=trained,
        run=run,
        step=step,
        dtype=config.dtype,
        max_shard_size=config.max_shard_size,
    )
    return step
