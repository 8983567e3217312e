"""Pairs a second of a training step: packed one-row layout with the fused head, beside the classic form.

The classic form is what TRL and its kin compute: two padded rows a pair, full logits, autodiff. Both sides
train the same decoder on the same HH pairs with the same optimizer, one after the other, in one run.

    python -m bench.step [--tokenizer=DIR] [--steps=6]
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pipeline import PreprocessConfig, preprocess
from pipeline.config import SourceConfig
from schemas.record import Pair, decode_row
from tests.train.decoders import two_row_batch, two_row_loss
from train.config import ModelConfig, TrainConfig
from train.data import DEVICE_ARRAYS, Batch, stored_rows, train_batches
from train.setup import Run, prepare
from train.sharding import put_on_mesh
from train.step import State, train_step

SHARED = Path(os.environ.get("ODDSMILL_SHARED") or Path(__file__).resolve().parents[2] / "shared")
MAX_LENGTH = 512
OURS, CLASSIC = "one-row, packed, fused head", "two-row, padded, full logits"
MODEL = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}

Step = Callable[[State, Any], tuple[State, Any]]


def two_row_step(state: State, batch: Batch, *, run: Run) -> tuple[State, jax.Array]:
    """The classic step: the dense reference of the tests, with the same optimizer."""
    loss = partial(two_row_loss, run.objective.definition, beta=run.objective.beta, nll_scope="full")
    (value, _), gradients = jax.value_and_grad(loss, has_aux=True)(state["params"], batch)
    updates, opt_state = run.optimizer.update(gradients, state["opt_state"], state["params"])
    params = jax.tree.map(lambda p, u: p + u, state["params"], updates)
    return {"params": params, "opt_state": opt_state, "step": state["step"] + 1}, value


def measure(step: Step, state: State, batches: Iterator[tuple[Any, int]], steps: int) -> tuple[float, int]:
    """Seconds and pairs of `steps` steps after one that compiles."""
    batch, _ = next(batches)
    state, _ = jax.block_until_ready(step(state, batch))
    seconds, pairs = 0.0, 0
    for _ in range(steps):
        batch, count = next(batches)
        started = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, batch))
        seconds += time.perf_counter() - started
        pairs += count
    return seconds, pairs


def packed_batches(run: Run, data: str, rows: int) -> Iterator[tuple[Any, int]]:
    for batch in train_batches(data, run.manifest, rows_per_step=rows, shuffle=True, seed=0):
        arrays = put_on_mesh({name: batch[name] for name in DEVICE_ARRAYS}, run.mesh)
        yield arrays, int(np.count_nonzero(batch["pair_ids"]))


def padded_batches(run: Run, data: str, pairs_a_step: int) -> Iterator[tuple[Any, int]]:
    rows = stored_rows(data, run.manifest, "train")
    pairs: list[Pair] = [pair for index in range(len(rows)) for pair in decode_row(rows[index]).pairs()]
    np.random.default_rng(0).shuffle(pairs)  # type: ignore[arg-type]
    for start in range(0, len(pairs) - pairs_a_step + 1, pairs_a_step):
        yield two_row_batch(pairs[start : start + pairs_a_step], MAX_LENGTH), pairs_a_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", default=str(SHARED / "data" / "tokenizers" / "phi-3-mini"))
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is measured, in turn")
    arguments = parser.parse_args()
    source = str(SHARED / "data" / "hh-rlhf-harmless" / "test.rows0-1599.jsonl.gz")
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/data"
        manifest = preprocess(
            PreprocessConfig(
                source=SourceConfig(path=source, format="transcript"),
                tokenizer=arguments.tokenizer,
                output=data,
                max_length=MAX_LENGTH,
            ),
            say=lambda line: None,
        )
        config_path = Path(folder) / "config.json"
        config_path.write_text(json.dumps({**MODEL, "vocab_size": manifest.tokenizer.vocab_size}))
        rows = 2
        run = prepare(
            TrainConfig(
                data=data,
                run_dir=f"{folder}/run",
                model=ModelConfig(config=str(config_path)),
                total_batch_size=rows,
                gradient_checkpointing=False,
                max_steps=1000,
            )
        )
        ours = jax.jit(
            partial(train_step, objective=run.objective, optimizer=run.optimizer, micro_batches=1), donate_argnums=0
        )
        classic = jax.jit(partial(two_row_step, run=run), donate_argnums=0)
        results: dict[str, list[float]] = {OURS: [], CLASSIC: []}
        with jax.set_mesh(run.mesh):
            for _ in range(arguments.rounds):
                for name, step, batches in (
                    (OURS, ours, packed_batches(run, data, rows)),
                    (CLASSIC, classic, padded_batches(run, data, 4)),
                ):
                    state = run.initial_state(run.initial_weights()[0])
                    del state["skipped"]  # of the loop (train/guard.py)
                    seconds, pairs = measure(step, state, batches, arguments.steps)
                    results[name].append(pairs / seconds)
    size = sum(leaf.size for leaf in jax.tree.leaves(run.abstract_state["params"]))
    print(f"\n{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}, jax {jax.__version__}")
    vocab_size = manifest.tokenizer.vocab_size
    print(f"Llama of {size:,} parameters, vocabulary {vocab_size:,}, float32; HH, max_length {MAX_LENGTH}")
    print("\n| form | pairs/s (median) | ratio |\n|---|---|---|")
    baseline = float(np.median(results[CLASSIC]))
    for name, rates in results.items():
        print(f"| {name} | {np.median(rates):.2f} | {np.median(rates) / baseline:.2f} |")


if __name__ == "__main__":
    main()
