"""Pairs a second of a training step: packed one-row layout with the fused head, its variants, and the classic form.

The classic form is what TRL and its kin compute: two padded rows a pair, full logits, dense attention, autodiff. All
train the same decoder on the same pairs with the same optimizer, in turns, in one run; a step of each holds about as
many pairs. HH at max_length 512, and long answers at max_length 1024.

    python -m bench.step [--data=hh|long|both] [--rounds=3] [--file]

Seconds are those of the CPU, on one core: what else the machine does changes them little. Memory is what the compiled
step needs beside its arguments.
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
from bench.result_page import Page, versions
from bench.training_data import preprocess_texts, write_model_config
from schemas.manifest import Manifest
from schemas.record import Pair, decode_row
from tests.train.decoders import two_row_batch, two_row_loss
from train.config import ModelConfig, TrainConfig
from train.data import DEVICE_ARRAYS, Batch, stored_rows, train_batches
from train.setup import Run, prepare
from train.sharding import put_on_mesh
from train.step import State, train_step

Step = Callable[[State, Any], tuple[State, Any]]
# Arrays of a step, and how many pairs and real tokens they hold. Real ones are those of two rows a pair, unpadded.
Batches = Iterator[tuple[Any, int, int]]


@dataclass(frozen=True)
class Variant:
    """A way to take the step.

    Attributes:
      settings: of TrainConfig.
      packing: several pairs a row; else one.
      two_rows: the classic form.
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
    """The classic step: the dense reference of the tests, with the same optimizer. Returns: the loss, too."""
    loss = partial(two_row_loss, run.objective.definition, beta=run.objective.beta, nll_scope="full")
    (value, _), gradients = jax.value_and_grad(loss, has_aux=True)(state["params"], batch)
    updates, opt_state = run.optimizer.update(gradients, state["opt_state"], state["params"])
    params = jax.tree.map(lambda p, u: p + u, state["params"], updates)
    return {"params": params, "opt_state": opt_state, "step": state["step"] + 1}, value


def stored_pairs(data: str, manifest: Manifest) -> list[Pair]:
    rows = stored_rows(data, manifest, "train")
    return [pair for index in range(len(rows)) for pair in decode_row(rows[index]).pairs()]


def one_row_batches(run: Run, data: str, rows: int) -> Batches:
    for batch in train_batches(data, run.manifest, rows_per_step=rows, shuffle=True, seed=0):
        pairs = int(np.count_nonzero(batch["pair_ids"]))
        prompt, chosen, rejected = (int(np.sum(batch["branch"] == branch)) for branch in (1, 2, 3))
        # The prompt's last token stands at the head of both branches (schemas/layout.py).
        tokens = 2 * (prompt + pairs) + (chosen - pairs) + (rejected - pairs) + 2 * pairs
        yield put_on_mesh({name: batch[name] for name in DEVICE_ARRAYS}, run.mesh), pairs, tokens


def two_row_batches(run: Run, data: str, pairs_a_step: int, max_length: int) -> Batches:
    pairs = stored_pairs(data, run.manifest)
    np.random.default_rng(0).shuffle(pairs)  # type: ignore[arg-type]
    endless = itertools.cycle(pairs)
    while True:
        batch = two_row_batch(list(itertools.islice(endless, pairs_a_step)), max_length)
        yield batch, pairs_a_step, int(batch["attended"].sum())


class Side:
    """A variant, compiled, and what was measured of it."""

    def __init__(self, variant: Variant, texts: Texts, data: str, model: Path, *, pairs_a_step: int):
        self.variant, self.rates = variant, []
        settings = {"gradient_checkpointing": False, **variant.settings}
        start = partial(TrainConfig, data=data, run_dir="-", model=ModelConfig(config=str(model)), max_steps=1000)
        run = prepare(start(**settings))
        split = run.manifest.splits["train"]
        if variant.two_rows:
            step: Step = partial(two_row_step, run=run)
            self.batches = two_row_batches(run, data, pairs_a_step, texts.max_length)
        else:
            step = partial(train_step, objective=run.objective, optimizer=run.optimizer, micro_batches=1)
            rows = max(1, round(pairs_a_step * split.rows / split.pairs))
            self.batches = one_row_batches(run, data, rows)
        self.run = run
        state, (batch, _, _) = self.state(), next(self.batches)
        with jax.set_mesh(run.mesh):
            self.step = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
        pairs = pairs_a_step if variant.two_rows else rows * split.pairs / split.rows
        self.megabytes_a_pair = self.step.memory_analysis().temp_size_in_bytes / 1e6 / pairs

    def state(self) -> State:
        state = self.run.initial_state(self.run.initial_weights()[0])
        del state["skipped"]  # of the loop (train/guard.py)
        return state

    def measure(self, steps: int) -> None:
        """Adds the (pairs, real tokens) a CPU second of `steps` steps, after one that is not counted."""
        state, seconds, pairs, tokens = self.state(), 0.0, 0, 0
        with jax.set_mesh(self.run.mesh):
            for number in range(steps + 1):
                batch, batch_pairs, batch_tokens = next(self.batches)
                started = time.process_time()
                state, _ = jax.block_until_ready(self.step(state, batch))
                if number:
                    seconds += time.process_time() - started
                    pairs, tokens = pairs + batch_pairs, tokens + batch_tokens
        self.rates.append((pairs / seconds, tokens / seconds))

    @property
    def pairs_per_s(self) -> float:
        return median(rate for rate, _ in self.rates)


def compare(page: Page, name: str, folder: Path, given: argparse.Namespace) -> None:
    """One table: every variant on one dataset."""
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
    size = sum(leaf.size for leaf in jax.tree.leaves(sides[0].run.abstract_state["params"]))
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
            f"{median(rate for _, rate in side.rates):,.0f}",
            f"{side.megabytes_a_pair:.0f}",
            f"{side.pairs_per_s / classic.pairs_per_s:.2f}",
            f"{side.megabytes_a_pair / classic.megabytes_a_pair:.3f}",
        )
    ratio = ours.pairs_per_s / classic.pairs_per_s
    page.say(
        f"\nPacked to classic {ratio:.2f}, to be at least {BOUNDS[name]:g}: {'yes' if ratio >= BOUNDS[name] else 'NO'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=[*TEXTS, "both"], default="both")
    parser.add_argument("--tokenizer", default=str(TOKENIZERS / "phi-3-mini"))
    parser.add_argument("--rows", type=int, default=2, help="packed rows a step; the other forms take as many pairs")
    parser.add_argument("--steps", type=int, default=3, help="steps of the classic form a round; the others take twice")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is measured, in turn")
    parser.add_argument("--core", type=int, default=0, help="the core that all runs on")
    parser.add_argument("--file", action="store_true", help="file the page in bench/results, too")
    given = parser.parse_args()
    pin([given.core])
    page = Page("Pairs a second of a training step", what="step", module="bench.step")
    page.say(f"{versions(['jax', 'flax', 'optax'])}, {jax.devices()[0].device_kind}, one core.")
    for name in TEXTS if given.data == "both" else [given.data]:
        with tempfile.TemporaryDirectory() as folder:
            compare(page, name, Path(folder), given)
    if given.file:
        page.file()


if __name__ == "__main__":
    main()
