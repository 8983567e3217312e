"""Metrics and samples to Weights & Biases, which is no part of `oddsmill[train]`."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oddsmill.schemas.errors import Refused


def import_wandb() -> Any:
    """Returns the library.

    Raises:
      Refused: it is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise Refused(
            "--report_to=[wandb]: wandb is not installed; pip install 'oddsmill[wandb]', or leave it out"
        ) from error
    return wandb


class WandbSink:
    """A run of W&B. WANDB_MODE=offline and all other variables of W&B hold.

    Args:
      run_dir: the run's folder, whose name is the run's name where WANDB_NAME does not say another.
      id_file: remembers which run of W&B this is, so that a resumed run goes on in it.
      settings: the resolved settings of the run, for its page.

    Raises:
      Refused: it is not installed, nobody is logged in, or their server is not reached.
    """

    def __init__(self, run_dir: Path, id_file: Path, settings: Mapping[str, Any]):
        self._wandb = import_wandb()
        known = json.loads(id_file.read_text(encoding="utf-8")) if id_file.is_file() else {}
        try:
            self._run = self._wandb.init(
                # Arguments win over W&B's variables, so these are read here.
                project=os.environ.get("WANDB_PROJECT", "oddsmill"),
                name=os.environ.get("WANDB_NAME", run_dir.name),
                dir=str(run_dir),
                config=dict(settings),
                id=known.get("id"),
                resume="allow",
            )
        except self._wandb.errors.Error as error:
            raise Refused(
                f"--report_to=[wandb]: W&B cannot be reached or refuses ({' '.join(str(error).split())}). Run "
                "`wandb login`, or set WANDB_MODE=offline and `wandb sync` later, or leave wandb out"
            ) from error
        id_file.write_text(json.dumps({"id": self._run.id}) + "\n", encoding="utf-8")
        # W&B's own step count only grows; after a kill ours goes back to the newest checkpoint.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def write_samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Sends a table of the answers of one step."""
        columns = list(samples[0])
        table = self._wandb.Table(columns=columns, data=[[sample[name] for name in columns] for sample in samples])
        self._run.log({"step": step, "samples": table})

    def close(self) -> None:
        self._run.finish()
