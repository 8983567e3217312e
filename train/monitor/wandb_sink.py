"""Metrics and samples to Weights & Biases, which is no part of `oddsmill[train]`."""

import atexit
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from oddsmill.schemas.console import log
from oddsmill.schemas.errors import Refused, RunFailed, one_line
from oddsmill.schemas.files import publish_text
from oddsmill.schemas.process.children import kill_descendants
from oddsmill.schemas.process.signals import is_command_line
from oddsmill.schemas.text.redaction import redact
from oddsmill.train.monitor.sinks import explain_write_errors

# What is sent is taken in milliseconds by a process of W&B's on this machine, whatever becomes of the network; only the
# end of a run waits for what is on its way.
PATIENCE_S = 60.0


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
      settings: the resolved settings of the run, for its page, which gets no secrets.

    Raises:
      Refused: it is not installed, nobody is logged in, or their server is not reached.
      RunFailed: the file of its id cannot be written.
    """

    def __init__(self, run_dir: Path, id_file: Path, settings: Mapping[str, Any]):
        self._wandb = import_wandb()
        self._folder = run_dir / "wandb"
        try:
            self._run = self._wandb.init(
                # Arguments win over W&B's variables, so these are read here.
                project=os.environ.get("WANDB_PROJECT", "oddsmill"),
                name=os.environ.get("WANDB_NAME", run_dir.name),
                dir=str(run_dir),
                config=redact(settings),
                id=_known_id(id_file),
                resume="allow",
            )
        except Exception as error:  # beside errors of their own they raise those of sockets and processes
            raise Refused(
                f"--report_to=[wandb]: W&B cannot be reached or refuses ({one_line(error)}). Run "
                "`wandb login`, or set WANDB_MODE=offline and `wandb sync` later, or leave wandb out"
            ) from error
        with explain_write_errors(id_file):
            publish_text(id_file, json.dumps({"id": self._run.id}) + "\n")
        # W&B's own step count only grows; after a kill ours goes back to the newest checkpoint.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self._failed = False

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the metrics of a step.

        Raises:
          RunFailed: W&B's process is gone, or takes nothing for a minute.
        """
        self._send({"step": step, **values})

    def write_samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Sends a table of the answers of one step. Errors: as `write`."""
        columns = list(samples[0])
        table = self._wandb.Table(columns=columns, data=[[sample[name] for name in columns] for sample in samples])
        self._send({"step": step, "samples": table})

    def close(self) -> None:
        """Waits a minute for what is on its way; what has not arrived by then stays in the run's folder."""
        if self._failed:
            return  # it was told, and would take another minute
        problem = _in_time(self._run.finish)
        if problem is not None:
            atexit.register(_forget_service)
            log.warning(
                f"W&B has not got all metrics of this run ({problem}): they lie in {self._folder}, and "
                "`wandb sync` sends them"
            )

    def _send(self, values: Mapping[str, Any]) -> None:
        problem = _in_time(lambda: self._run.log(values))
        if problem is not None:
            self._failed = True
            atexit.register(_forget_service)
            raise RunFailed(
                f"W&B takes no more metrics ({problem}). The newest checkpoint is kept, and the same command goes on "
                "from it; without --report_to=[wandb], or with WANDB_MODE=offline, it needs no network"
            )


def _forget_service() -> None:
    """Comes before W&B's own end of the process, which waits for a service that hangs, or fails on one that is gone.

    A script that uses the library has other processes and messages, and is left alone.
    """
    if is_command_line():
        kill_descendants()
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _in_time(call: Callable[[], object]) -> str | None:
    """Calls W&B in a thread, since its library waits for its process without end; returns what went wrong."""
    outcome: list[str | None] = []

    def run() -> None:
        try:
            call()
            outcome.append(None)
        except BaseException as error:
            outcome.append(one_line(error))

    thread = threading.Thread(target=run, name="wandb", daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return outcome[0] if outcome else f"no answer in {PATIENCE_S:.0f} s"


def _known_id(id_file: Path) -> str | None:
    """Returns the id of the run that an earlier start began; None where there is none, or its file is damaged."""
    if not id_file.is_file():
        return None
    try:
        known = json.loads(id_file.read_bytes())
    except ValueError:
        known = None
    if isinstance(known, dict) and isinstance(known.get("id"), str):
        return known["id"]
    log.warning(f"{id_file} is damaged: W&B gets a new run")
    return None
