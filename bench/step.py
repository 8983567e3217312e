"""How many pairs a second does a training step take: packed rows with the fused head, variants, and the classic form?

The classic form is the one of TRL and other trainers: two padded rows a pair, full logits, dense attention, autodiff.
All train the same decoder on the same pairs with the same optimizer, in turns, in one run; a step of each holds about
as many pairs. The data are HH at max_length 512, and long answers at max_length 1024.

    python -m bench.step [--data=hh|long|both] [--rounds=3] [--file]

Seconds are CPU seconds on one core, which other work on the machine changes little. Memory is what the compiled step
needs beside its arguments.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np

from bench.model_shapes import SMALL
from bench.preference_texts import TEXTS, TOKENIZERS, Texts
from bench.process_meter import pin
from bench.result_page import Page, arguments, chosen_texts, page_name, versions
from bench.training_data import preprocess_texts, write_model_config
from oddsmill.schemas.manifest import Manifest
from oddsmill.schemas.record import Pair, decode_row
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.loader import DEVICE_ARRAYS, Batch, stored_rows, train_batches
from oddsmill.train.parallel.sharding import put_on_mesh
from oddsmill.train.prepare import Run, prepare
from oddsmill.train.step.step import State, train_step
from tests.train.decoders import two_row_batch, two_row_loss

Step = Callable[[State, Any], tuple[State, Any]]
Batches = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class Variant:
    """A way to compute the step.

    Attributes:
      settings: further settings of TrainConfig.
      packing: True for several pairs a row, False for one.
      two_rows: True for the classic form.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    packing: bool = True
    two_rows: bool = False


CLASSIC = Variant("two rows a pair, padded, dense attention, full logits", {"attn_mechanism": "vanilla"}, two_rows=True)
OURS = Variant("packed")
REMAT = {"gradient_checkpointing": True}
VARIANTS = (
    CLASSIC,
    Variant("the same, remat", {**CLASSIC.settings, **REMAT}, two_rows=True),
    Variant("one row, one pair", packing=False),
    Variant("packed, dense attention", {"attn_mechanism": "vanilla"}),
    OURS,
    Variant("packed, remat", REMAT),
    Variant("packed, NLL of the response", {"nll_scope": "response"}),
    Variant("packed, NLL of the response, remat", {"nll_scope": "response", **REMAT}),
)
BOUNDS = {"hh": 6.0, "long": 4.0}


def two_row_step(state: State, batch: Batch, *, run: Run) -> tuple[State, jax.Array]:
    """Computes the classic step, the dense reference of the tests with our optimizer: the new state, and the loss."""
    loss = partial(
        two_row_loss,
        run.program.objective.definition,
        beta=run.program.objective.preference.beta,
        nll_scope="full",
    )
    (value, _), gradients = jax.value_and_grad(loss, has_aux=True)(state["params"], batch)
    updates, opt_state = run.program.optimizer.update(gradients, state["opt_state"], state["params"])
    params = jax.tree.map(lambda p, u: p + u, state["params"], updates)
    return {"params": params, "opt_state": opt_state, "step": state["step"] + 1}, value


def stored_pairs(data: str, manifest: Manifest) -> list[Pair]:
    rows = stored_rows(data, manifest, "train")
    return [
        pair for index in range(len(rows)) for pair in decode_row(rows[index], row_length=manifest.row_length).pairs()
    ]


def one_row_batches(run: Run, data: str, rows: int) -> Batches:
    for batch in train_batches(data, run.data.manifest, rows_per_step=rows, shuffle=True, seed=0):
        yield put_on_mesh({name: batch[name] for name in DEVICE_ARRAYS}, run.program.mesh)


def two_row_batches(run: Run, data: str, pairs_a_step: int, max_length: int) -> Batches:
    pairs = stored_pairs(data, run.data.manifest)
    np.random.default_rng(0).shuffle(pairs)  # type: ignore[arg-type]
    endless = itertools.cycle(pairs)
    while True:
        yield two_row_batch(list(itertools.islice(endless, pairs_a_step)), max_length)


class Side:
    """A compiled variant and its measurements.

    Pairs are counted by the mean of the dataset: a step of fixed shapes takes about as long whichever pairs it holds,
    and the few pairs that one variant is measured on are not those of another.
    """

    def __init__(self, variant: Variant, texts: Texts, data: str, model: Path, *, pairs_a_step: int):
        self.variant, self.rates = variant, []  # pairs a CPU second, one for each round
        settings = {"gradient_checkpointing": False, **variant.settings}
        start = partial(TrainConfig, data=data, run_dir="-", model=ModelConfig(config=str(model)), max_steps=1000)
        run = prepare(start(**settings))
        split = run.data.manifest.splits["train"]
        if variant.two_rows:
            step: Step = partial(two_row_step, run=run)
            self.batches = two_row_batches(run, data, pairs_a_step, texts.max_length)
            self.pairs_a_step: float = pairs_a_step
        else:
            step = partial(
                train_step, objective=run.program.objective, optimizer=run.program.optimizer, micro_batches=1
            )
            rows = max(1, round(pairs_a_step * split.rows / split.pairs))
            self.batches = one_row_batches(run, data, rows)
            self.pairs_a_step = rows * split.pairs / split.rows
        self.run = run
        state, batch = self.state(), next(self.batches)
        with jax.set_mesh(run.program.mesh):
            self.step = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
        self.megabytes_a_pair = self.step.memory_analysis().temp_size_in_bytes / 1e6 / self.pairs_a_step

    def state(self) -> State:
        state = self.run.program.initial_state(self.run.initial_weights()[0])
        del state["skipped"]  # of the loop (train/step/guard.py)
        return state

    def measure(self, steps: int) -> None:
        """Measures `steps` steps after one that is not counted."""
        state, seconds = self.state(), 0.0
        with jax.set_mesh(self.run.program.mesh):
            for number in range(steps + 1):
                batch = next(self.batches)
                started = time.process_time()
                state, _ = jax.block_until_ready(self.step(state, batch))
                seconds += (time.process_time() - started) * bool(number)
        self.rates.append(steps * self.pairs_a_step / seconds)

    @property
    def pairs_per_s(self) -> float:
        return median(self.rates)


def compare(page: Page, name: str, folder: Path, given: argparse.Namespace) -> None:
    """Adds a table: every variant on one dataset."""
    texts, data = TEXTS[name], {}
    for packing in (False, True):
        data[packing] = folder / f"packing-{packing}"
        manifest = preprocess_texts(
            texts.rows(), data[packing], tokenizer=given.tokenizer, max_length=texts.max_length,
            texts=folder / "rows.jsonl", packing=packing,
        )  # fmt: skip
    vocab_size, split = manifest.tokenizer.vocab_size, manifest.splits["train"]
    pairs_a_step = round(given.rows * split.pairs / split.rows)
    model = write_model_config(folder, SMALL, vocab_size)
    sides = [Side(each, texts, str(data[each.packing]), model, pairs_a_step=pairs_a_step) for each in VARIANTS]
    for _ in range(given.rounds):  # in turns, so that a change of the machine's pace meets all
        for side in sides:
            side.measure(given.steps if side.variant.two_rows else 2 * given.steps)
    # Real tokens are those of two rows a pair, unpadded.
    pairs = stored_pairs(str(data[True]), manifest)
    tokens = sum(2 * len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in pairs) / len(pairs)
    size = sum(leaf.size for leaf in jax.tree.leaves(sides[0].run.program.abstract_state["params"]))
    page.say(
        f"\n## {texts.name}, max_length {texts.max_length}\n\nLlama of {size:,} parameters, vocabulary {vocab_size:,}, "
        f"float32. {split.pairs:,} pairs, {split.pairs / split.rows:.1f} to a row of {manifest.row_length}; about "
        f"{pairs_a_step} pairs a step. Median of {given.rounds} rounds.\n"
    )
    page.head("step", "pairs/CPU-s", "real tokens/CPU-s", "temporary MB a pair", "speed ratio", "memory ratio")
    classic, ours = (next(side for side in sides if side.variant is variant) for variant in (CLASSIC, OURS))
    for side in sides:
        page.row(
            side.variant.name,
            f"{side.pairs_per_s:.2f}",
            f"{side.pairs_per_s * tokens:,.0f}",
            f"{side.megabytes_a_pair:.0f}",
            f"{side.pairs_per_s / classic.pairs_per_s:.2f}",
            f"{side.megabytes_a_pair / classic.megabytes_a_pair:.3f}",
        )
    ratio = ours.pairs_per_s / classic.pairs_per_s
    page.say(
        f"\nPacked to classic {ratio:.2f}, to be at least {BOUNDS[name]:g}: {'yes' if ratio >= BOUNDS[name] else 'NO'}"
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--tokenizer", default=str(TOKENIZERS / "phi-3-mini"))
    parser.add_argument("--rows", type=int, default=2, help="packed rows a step; the other forms take as many pairs")
    parser.add_argument("--steps", type=int, default=3, help="steps of the classic form a round; the others take twice")
    given = parser.parse_args()
    pin([given.core])
    page = Page("Pairs a second of a training step", what=page_name("step", given.data), module="bench.step")
    page.say(f"{versions(['jax', 'flax', 'optax'])}, {jax.devices()[0].device_kind}, one core.")
    for name in chosen_texts(given.data):
        with tempfile.TemporaryDirectory() as folder:
            compare(page, name, Path(folder), given)
    if given.file:
        page.file()


if __name__ == "__main__":
    main()
