"""Metrics and samples to Weights & Biases, which is no part of `oddsmill[train]`."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oddsmill.schemas.errors import Refused

RUN_NAME = "wandb.json"  # in run_dir: which run of theirs this is, so that a resumed run goes on in it


def import_wandb() -> Any:
    """The library.

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
    """One of their runs. WANDB_MODE=offline and all their other variables hold.

    Args:
      settings: the resolved settings of the run, for their page.

    Raises:
      Refused: it is not installed, nobody is logged in, or their server is not reached.
    """

    def __init__(self, run_dir: str, settings: Mapping[str, Any]):
        self._wandb = import_wandb()
        path = Path(run_dir) / RUN_NAME
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        try:
            self._run = self._wandb.init(
                # What is given here wins over their variables.
                project=os.environ.get("WANDB_PROJECT", "oddsmill"),
                name=os.environ.get("WANDB_NAME", Path(run_dir).name),
                dir=run_dir,
                config=dict(settings),
                id=known.get("id"),
                resume="allow",
            )
        except self._wandb.errors.Error as error:
            raise Refused(
                f"--report_to=[wandb]: W&B cannot be reached or refuses ({' '.join(str(error).split())}). Run "
                "`wandb login`, or set WANDB_MODE=offline and `wandb sync` later, or leave wandb out"
            ) from error
        path.write_text(json.dumps({"id": self._run.id}) + "\n", encoding="utf-8")
        # Their own step count only grows; after a kill ours goes back to the newest checkpoint.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def write_samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """A table of the answers of one step."""
        columns = list(samples[0])
        table = self._wandb.Table(columns=columns, data=[[sample[name] for name in columns] for sample in samples])
        self._run.log({"step": step, "samples": table})

    def close(self) -> None:
        self._run.finish()
