"""`oddsmill train export`: a checkpoint of a run in, a Hugging Face folder out."""

from pathlib import Path

from oddsmill.schemas.errors import Refused
from oddsmill.train.config.export import ExportConfig
from oddsmill.train.run_folder import export_run_adapter, export_run_model, restore_run


def export_run(config: ExportConfig) -> int:
    """Exports a checkpoint of a run; returns its step.

    Raises:
      Refused: no such run or checkpoint, or a folder of that name that is not empty.
      RunFailed: the folder cannot be written.
    """
    out = Path(config.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Refused(f"--out={out} exists and is not empty; give another folder")
    run, step, params, frozen = restore_run(
        config.run_dir,
        command="oddsmill train export",
        checkpoint=config.checkpoint,
        mesh=config.mesh,
        distributed=config.distributed,
    )
    if config.adapter:
        if run.config.lora is None:
            raise Refused(f"--adapter=true: the run in {config.run_dir} trained no adapters; leave it out")
        export_run_adapter(run, out, params, step=step)
    else:
        export_run_model(run, out, params, frozen, step=step, dtype=config.dtype, max_shard_size=config.max_shard_size)
    return step
