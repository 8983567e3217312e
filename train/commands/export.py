"""`oddsmill train export`: a checkpoint of a run in, a Hugging Face folder out."""

from pathlib import Path

from oddsmill.schemas.errors import Refused
from oddsmill.train.checkpoint.restoring import restore_run
from oddsmill.train.config.export import ExportConfig
from oddsmill.train.model.lora import merge_lora
from oddsmill.train.weights.export import export_adapter, export_model


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
