"""A run's folder in, the weights of one of its checkpoints out: for what exports or measures, and does not train."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.settings import load_settings
from oddsmill.train.checkpoint.checkpoints import Checkpoints
from oddsmill.train.checkpoint.digests import digest
from oddsmill.train.config.devices import DistributedConfig, MeshConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.loop import CHECKPOINT_FOLDER, SETTINGS_NAME
from oddsmill.train.setup import Run, prepare


class Restored(NamedTuple):
    """A run as it stood after `step` steps; `params` are the trained weights, `frozen` the others."""

    config: TrainConfig
    run: Run
    step: int
    params: dict[str, Any]
    frozen: dict[str, Any]


def restore_run(
    run_dir: str, *, command: str, checkpoint: int | None, mesh: MeshConfig | None, distributed: DistributedConfig
) -> Restored:
    """Prepares a run as it was started and reads the weights of a checkpoint.

    Args:
      run_dir: its folder. Its data and its model must be where they were.
      command: who asks, for error messages.
      checkpoint: the step; None: the newest, or the best of a run with load_best_model_at_end.
      mesh: how devices are arranged; None: as in the run.
      distributed: the processes of now; those of the run are over.

    Raises:
      Refused: no such run or checkpoint, or its data or model are no longer what they were.
    """
    settings = Path(run_dir) / SETTINGS_NAME
    if not settings.is_file():
        raise Refused(f"--run_dir={run_dir}: not the folder of a run, it has no {SETTINGS_NAME}")
    config = load_settings(TrainConfig, ["--config", str(settings)], command=command)
    # As it lies now: a run's folder may have been moved.
    config = dataclasses.replace(config, run_dir=run_dir, mesh=mesh or config.mesh, distributed=distributed)
    run = prepare(config)
    folder = Path(run_dir) / CHECKPOINT_FOLDER
    with Checkpoints(folder, identity=run.identity, save_total_limit=None) as checkpoints:
        checkpoints.check_identity()
        step = checkpoints.find_step(checkpoint, best=config.load_best_model_at_end)
        frozen = run.initial_weights()[1] if run.has_frozen_weights else {}
        params = checkpoints.restore_params(step, run.abstract_state["params"], frozen_digest=digest(frozen))
    return Restored(config, run, step, params, frozen)
