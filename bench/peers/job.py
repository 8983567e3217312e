"""The job that each side of the comparison is given, and the report that it prints.

This module imports only Python's own library, because all environments read it.

A side is a module of this package, run in a process of its own: `python -m bench.peers.trl_side JOB.json`. It trains
with its own trainer, tells a `Meter` when each step ends, and prints one JSON object as its last line.
"""

import dataclasses
import importlib.metadata
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.preference_texts import read_jsonl
from bench.process_meter import peak_rss_bytes

# Every side runs here, so that the packages of this checkout are imported.
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One comparison. All sides start from the same weights and see the same pairs, once in the measured steps.

    Attributes:
      folder: rows.jsonl (the texts), pairs.jsonl (their tokens, in the same order), data/ (packed rows) and model/.
      pairs_per_step: pairs of a peer's step; micro_batches: the parts that it is computed in.
      rows_per_step: rows of our step, which hold about as many pairs.
      warmup_steps: steps before those that are measured.
      steps, our_steps: measured steps of a peer, and of ours.
      max_length: tokens of prompt and answer together; no pair is longer.
      max_prompt_length, max_completion_length: tokens of the longest prompt and answer.
      dtype: float32 or bfloat16, for weights, optimizer state and matrix products.
      learning_rate: so small that the weights stay as they are: the loss of every step can be compared.
      remat: True if the backward pass computes activations again.
      attn_mechanism: the mechanism of our side.
    """

    folder: str
    pairs_per_step: int
    micro_batches: int = 1
    rows_per_step: int
    warmup_steps: int = 3
    steps: int
    our_steps: int
    max_length: int
    max_prompt_length: int
    max_completion_length: int
    dtype: str = "float32"
    beta: float = 0.1
    learning_rate: float = 1e-9
    remat: bool = False
    attn_mechanism: str = "auto"

    def write(self, path: Path) -> Path:
        path.write_text(json.dumps(dataclasses.asdict(self)))
        return path

    @property
    def path(self) -> Path:
        return Path(self.folder)

    def pairs(self) -> list[dict[str, list[int]]]:
        """Returns the token ids `prompt`, `chosen` and `rejected` of each pair, in the order of the texts."""
        return read_jsonl(self.path / "pairs.jsonl")


def read_job() -> Job:
    """Returns the job that this process was started with."""
    return Job(**json.loads(Path(sys.argv[1]).read_text()))


class Meter:
    """Measures wall and CPU seconds from the end of the warm-up to the end of the last step."""

    def __init__(self, warmup_steps: int, steps: int):
        self.num_steps = warmup_steps + steps
        self._warmup_steps = warmup_steps
        self._losses: list[float] = []
        self._times: list[tuple[float, float]] = []

    def step_ended(self, loss: Any) -> None:
        self._losses.append(float(loss))
        if len(self._losses) in (self._warmup_steps, self.num_steps):
            self._times.append((time.perf_counter(), time.process_time()))

    def report(self, *, pairs: int, packages: Sequence[str], **more: Any) -> None:
        """Prints the report. Args: pairs: pairs that the measured steps trained on."""
        (wall, cpu), (wall_end, cpu_end) = self._times
        report({
            "pairs": pairs, "wall_s": wall_end - wall, "cpu_s": cpu_end - cpu, "losses": self._losses,
            "peak_rss_bytes": peak_rss_bytes(),
            "versions": {name: importlib.metadata.version(name) for name in packages}, **more,
        })  # fmt: skip


def report(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)


def padded(ids: list[int], length: int, value: int, *, left: bool = False) -> list[int]:
    filler = [value] * (length - len(ids))
    return filler + ids if left else ids + filler
