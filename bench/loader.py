"""Is the loader ever the bottleneck? Its rows a second beside those that a training step consumes, in one run.

The dataset is HH, packed into rows of three lengths. The step trains the small Llama of bench/step.py on this CPU, on a
batch that is already there; the loader, with no, one and two worker processes, gives batches that nobody trains on. The
two are measured in turn. The rows that an H200 would consume follow from its roofline, and are compared with one core
of this machine.

    python -m bench.loader [--tokenizer=DIR] [--rounds=3] [--file]

Exits with 1 if the loader gives fewer than 50 times the rows that the step consumes.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

import jax

from bench.model_shapes import SMALL
from bench.preference_texts import SHARED
from bench.result_page import Page, versions
from bench.training_data import write_model_config
from oddsmill.pipeline import PreprocessConfig, SourceConfig, preprocess
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.loader import DEVICE_ARRAYS, TrainBatches, train_batches
from oddsmill.train.parallel.sharding import put_on_mesh
from oddsmill.train.prepare import prepare
from oddsmill.train.step.step import train_step

MAX_LENGTH = 512
ROW_LENGTHS = (1024, 2048, 4096)
WORKERS = (0, 1, 2)
ROWS = 8  # a batch of the loader
STEP_ROWS = 2  # rows a step, as in bench/step.py
BOUND = 50
# Real tokens a second of one H200 in bfloat16 if its arithmetic were the only limit: the roofline without remat, which
# no run reaches.
H200_TOKENS_PER_S = {"1B": 90_000, "8B": 16_000}


def rows_per_s_of_loader(batches: TrainBatches, seconds: float) -> tuple[float, float]:
    """Returns rows a second, and CPU microseconds a row of this process with its threads, without its workers."""
    for _ in range(16):  # more than is read ahead
        next(batches)
    started, cpu_started, rows = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - started < seconds:
        next(batches)
        rows += ROWS
    return rows / (time.perf_counter() - started), (time.process_time() - cpu_started) / rows * 1e6


def rows_per_s_of_step(data: str, folder: Path, steps: int) -> Iterator[float]:
    """Yields, once a round, the rows a second that the training step consumes from a batch that is on the device."""
    run = prepare(
        TrainConfig(
            data=data,
            run_dir=str(folder / "run"),
            model=ModelConfig(config=str(folder / "config.json")),
            total_batch_size=STEP_ROWS,
            gradient_checkpointing=False,
            max_steps=1000,
        )
    )
    step = jax.jit(
        partial(train_step, objective=run.program.objective, optimizer=run.program.optimizer, micro_batches=1),
        donate_argnums=0,
    )
    with jax.set_mesh(run.program.mesh):
        state = run.program.initial_state(run.initial_weights()[0])
        del state["skipped"]  # of the loop (train/step/guard.py)
        batch = next(train_batches(data, run.data.manifest, rows_per_step=STEP_ROWS, shuffle=True, seed=0))
        arrays = put_on_mesh({name: batch[name] for name in DEVICE_ARRAYS}, run.program.mesh)
        state, _ = jax.block_until_ready(step(state, arrays))  # compiles
    while True:
        with jax.set_mesh(run.program.mesh):
            started = time.perf_counter()
            for _ in range(steps):
                state, _ = step(state, arrays)
            jax.block_until_ready(state)
        yield steps * STEP_ROWS / (time.perf_counter() - started)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", default=str(SHARED / "data" / "tokenizers" / "phi-3-mini"))
    parser.add_argument("--rounds", type=int, default=3, help="how often all is measured, in turn; medians are printed")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement of the loader")
    parser.add_argument("--steps", type=int, default=2, help="of each measurement of the step")
    parser.add_argument("--file", action="store_true", help="file the page in bench/results/")
    arguments = parser.parse_args()
    source = str(SHARED / "data" / "hh-rlhf-harmless" / "test.rows0-1599.jsonl.gz")
    consumed: dict[int, float] = {}
    given: dict[tuple[int, int], tuple[float, float]] = {}
    starts: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    vocab_size = 0
    for length in ROW_LENGTHS:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            data = str(folder / "data")
            manifest = preprocess(
                PreprocessConfig(
                    source=SourceConfig(path=source, format="transcript"),
                    tokenizer=arguments.tokenizer,
                    output=data,
                    max_length=MAX_LENGTH,
                    row_length=length,
                ),
            )
            vocab_size = manifest.tokenizer.vocab_size
            write_model_config(folder, SMALL, vocab_size)
            step_rates, step = [], rows_per_s_of_step(data, folder, arguments.steps)
            rates: dict[int, list[tuple[float, float]]] = {workers: [] for workers in WORKERS}
            loaders = {}
            for workers in WORKERS:
                started = time.perf_counter()
                loaders[workers] = train_batches(
                    data, manifest, rows_per_step=ROWS, shuffle=True, seed=0, num_workers=workers
                )
                next(loaders[workers])
                starts[workers].append(time.perf_counter() - started)
            for _ in range(arguments.rounds):  # a loader that has read ahead waits, at no cost
                step_rates.append(next(step))
                for workers, batches in loaders.items():
                    rates[workers].append(rows_per_s_of_loader(batches, arguments.seconds))
            for batches in loaders.values():
                batches.close()
            consumed[length] = median(step_rates)
            for workers, found in rates.items():
                given[length, workers] = median(rate for rate, _ in found), median(cpu for _, cpu in found)
    page = Page("The loader beside the step", what="loader", module="bench.loader")
    page.say(
        f"{versions(['jax', 'grain', 'array-record', 'pyarrow'])}. HH (max_length {MAX_LENGTH}) in packed rows; the "
        f"loader gives batches of {ROWS} rows, the step takes {STEP_ROWS}: Llama, hidden size {SMALL['hidden_size']}, "
        f"{SMALL['num_hidden_layers']} layers, vocabulary {vocab_size:,}, float32. The first batch comes after at most "
        + ", ".join(f"{max(seconds):.1f} s with {workers}" for workers, seconds in starts.items())
        + " workers.\n"
    )
    say_step(page, consumed, given)
    say_h200(page, given)
    if arguments.file:
        page.file()
    return int(any(rate < BOUND * consumed[length] for (length, _), (rate, _) in given.items()))


def say_step(page: Page, consumed: dict[int, float], given: dict[tuple[int, int], tuple[float, float]]) -> None:
    page.head(
        "row length", "the step consumes, rows/s", "workers", "the loader gives, rows/s", "times",
        f"at least {BOUND}", "CPU us a row in the training process",
    )  # fmt: skip
    for (length, workers), (rate, cpu) in given.items():
        step, times = consumed[length], rate / consumed[length]
        holds = "yes" if times >= BOUND else "NO"
        page.row(f"{length}", f"{step:.2f}", f"{workers}", f"{rate:,.0f}", f"{times:,.0f}", holds, f"{cpu:.0f}")


def say_h200(page: Page, given: dict[tuple[int, int], tuple[float, float]]) -> None:
    page.say("\nWhat one H200 would consume, by its roofline, beside one core of this machine without workers:\n")
    models = [f"{model} at {tokens:,} tokens/s: rows/s" for model, tokens in H200_TOKENS_PER_S.items()]
    page.head("row length", "one core gives, rows/s", *(cell for model in models for cell in (model, "times")))
    for length in ROW_LENGTHS:
        core = 1e6 / given[length, 0][1]
        rows = [tokens / length for tokens in H200_TOKENS_PER_S.values()]
        page.row(
            f"{length}", f"{core:,.0f}", *(cell for each in rows for cell in (f"{each:.1f}", f"{core / each:,.0f}"))
        )


if __name__ == "__main__":
    sys.exit(main())
