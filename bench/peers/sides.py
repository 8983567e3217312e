"""The sides of the comparison: where each has its Python, and how it is run."""

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
      module: of this package.
      python: of its environment.
      same_loss: it computes TRL's loss, and ours.
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
    """A side that gave no result: the line that says why, and all that it wrote to stderr."""

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
    """What a side reports of a job, run in a process of its own, without network, on the cores of this one.

    Raises:
      SideFailed: it ended with an error, or took longer than `timeout_s`.
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
