"""The sides of the comparison: the Python environment of each, and how it is run."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers.job import ROOT, Job


@dataclass(frozen=True)
class Side:
    """A trainer.

    Attributes:
      module: the module of this package that runs it.
      python: the interpreter of its environment.
      same_loss: True if it computes the loss of TRL, which is ours.
    """

    name: str
    module: str
    python: str = sys.executable
    same_loss: bool = True

    @property
    def is_there(self) -> bool:
        return Path(self.python).exists()


def python_of(environment: str) -> str:
    return str(ROOT / environment / "bin" / "python")


class SideFailed(Exception):
    """A side gave no result. The message is the line that says why; `stderr` is all that it wrote."""

    def __init__(self, side: Side, stderr: str):
        lines = stderr.strip().splitlines() or ["no message"]
        # JAX adds lines of its own after the error's.
        errors = [line for line in lines if re.match(r"[\w.]*(Error|Refused|Exception)\w*: ", line)]
        super().__init__(f"{side.name} failed: {(errors or lines)[-1]}")
        self.stderr = stderr


OURS = Side("ours", "our_side")
TRL = Side("TRL", "trl_side", python_of(".venv-peers-trl"))
EASYDEL = Side("EasyDeL", "easydel_side", python_of(".venv-peers-easydel"))
TUNIX = Side("Tunix", "tunix_side", python_of(".venv-peers-tunix"), same_loss=False)
SIDES = (OURS, TRL, EASYDEL, TUNIX)


def run_side(side: Side, job: Job, *arguments: str, timeout_s: float | None = None) -> dict[str, Any]:
    """Runs a side in a process of its own, without network, on this process's cores, and returns its report.

    Raises:
      SideFailed: the side ended with an error, or took longer than `timeout_s`.
    """
    path = job.write(job.path / f"{side.module}.json")
    settings = {
        "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(job.path / "cache"), "TOKENIZERS_PARALLELISM": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95",  # of a GPU; JAX takes 0.75 by itself
    }  # fmt: skip
    try:
        finished = subprocess.run(
            [side.python, "-m", f"bench.peers.{side.module}", str(path), *arguments],
            cwd=ROOT, env=os.environ | settings, capture_output=True, text=True,
            timeout=timeout_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise SideFailed(side, f"not done after {timeout_s:.0f} s") from error
    if finished.returncode:
        raise SideFailed(side, finished.stderr)
    return json.loads(finished.stdout.strip().splitlines()[-1])
