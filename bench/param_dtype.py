"""What do weights in bfloat16 save, and what does their rounding cost? Memory a parameter and time of a step.

The sides are weights in float32, in bfloat16 rounded at random as a run does it, and in bfloat16 rounded to the
nearest, which loses updates and is here for the cost alone. All train the same decoder on the same rows, in turns.

    python -m bench.param_dtype [--rounds=3] [--rows=2] [--file]

Seconds are CPU seconds on one core, which other work on the machine changes little. Memory is what XLA says of the
compiled step: the state that it takes, and what it needs beside that.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import jax
import numpy as np
import optax

from bench.model_shapes import SMALL
from bench.process_meter import pin
from bench.result_page import Page, versions
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.model.hf_config import parse_config
from oddsmill.train.parallel.sharding import put_on_mesh, shard_bytes
from oddsmill.train.step.program import build_program
from oddsmill.train.step.rounding import apply_updates
from tests.datasets import packed, random_pairs
from tests.train.decoders import batch_of

VOCAB_SIZE, ROW_LENGTH = 8192, 1024
NEAREST = "bfloat16, to the nearest"
SIDES = {"float32": "float32", "bfloat16, at random": "bfloat16", NEAREST: "bfloat16"}


def to_the_nearest(params: Any, updates: Any, **_: Any) -> Any:
    return optax.apply_updates(params, updates)


class Side:
    """A compiled step and its measurements."""

    def __init__(self, name: str, optim: str, rows: int):
        self.name, self.seconds = name, []  # CPU seconds a step, one for each round
        model = {**SMALL, "vocab_size": VOCAB_SIZE}
        config = TrainConfig(
            data="-", run_dir="-", model=ModelConfig(config=json.dumps(model)), param_dtype=SIDES[name],  # type: ignore[arg-type]
            optim=optim, gradient_checkpointing=False,  # type: ignore[arg-type]
        )  # fmt: skip
        pairs = packed(random_pairs(np.random.default_rng(0), 20 * rows, vocab_size=VOCAB_SIZE, longest=99), ROW_LENGTH)
        self.program = build_program(
            config, parse_config(model, path="-")[0], model_path=Path(), max_pairs=max(map(len, pairs)),
            row_lengths=[ROW_LENGTH], num_steps=1000,
        )  # fmt: skip
        self.batch = put_on_mesh(batch_of(pairs[:rows], ROW_LENGTH, VOCAB_SIZE), self.program.mesh)
        rounding = to_the_nearest if name == NEAREST else apply_updates
        with jax.set_mesh(self.program.mesh), patch("oddsmill.train.step.step.apply_updates", rounding):
            jitted: Any = self.program.jitted_step()
            self.step = jitted.lower(self.program.abstract_state, self.batch, {}).compile()
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self.program.abstract_state["params"]))

    def measure(self, steps: int) -> None:
        """Measures `steps` steps after one that is not counted."""
        state, seconds = self.program.initial_state(self.program.initial_weights(0, None)[0]), 0.0
        for number in range(steps + 1):
            started = time.process_time()
            state, _ = jax.block_until_ready(self.step(state, self.batch, {}))
            seconds += (time.process_time() - started) * bool(number)
        self.seconds.append(seconds / steps)

    @property
    def bytes_a_parameter(self) -> tuple[float, float]:
        """Returns the bytes of the state, and of all that the step needs beside it, by parameter."""
        temporary = self.step.memory_analysis().temp_size_in_bytes
        return shard_bytes(self.program.abstract_state) / self.parameters, temporary / self.parameters


def compare(page: Page, optim: str, given: argparse.Namespace) -> None:
    """Adds a table: every side with one optimizer."""
    sides = [Side(name, optim, given.rows) for name in SIDES]
    for _ in range(given.rounds):  # in turns, so that a change of the machine's pace meets all
        for side in sides:
            side.measure(given.steps)
    page.say(f"\n## {optim}\n")
    page.head("weights", "CPU-s a step", "to float32", "to the nearest", "state, bytes a parameter", "beside it")
    base, nearest = (median(side.seconds) for side in (sides[0], sides[-1]))
    for side in sides:
        seconds, (state, temporary) = median(side.seconds), side.bytes_a_parameter
        ratios = (f"{seconds / other:.2f}" for other in (base, nearest))
        page.row(side.name, f"{seconds:.2f}", *ratios, f"{state:.1f}", f"{temporary:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is measured, in turn")
    parser.add_argument("--steps", type=int, default=3, help="steps a round")
    parser.add_argument("--rows", type=int, default=2, help=f"rows a step, of {ROW_LENGTH}")
    parser.add_argument("--core", type=int, default=0, help="the core that all run on")
    parser.add_argument("--file", action="store_true", help="file the page in bench/results, too")
    given = parser.parse_args()
    pin([given.core])
    page = Page("Weights in bfloat16: time and memory of a step", what="param_dtype", module="bench.param_dtype")
    parameters = sum(leaf.size for leaf in jax.tree.leaves(Side("float32", "sgd", 1).program.abstract_state["params"]))
    page.say(
        f"{versions(['jax', 'flax', 'optax'])}, {jax.devices()[0].device_kind}, one core. Llama of {parameters:,} "
        f"parameters, {given.rows} rows of {ROW_LENGTH} a step, float32 products. Median of {given.rounds} rounds."
    )
    for optim in ("adamw", "adamw_bf16", "adafactor"):
        compare(page, optim, given)
    if given.file:
        page.file()


if __name__ == "__main__":
    main()
