"""How near is preprocessing to the speed of the tokenizer, and how far from a map over single rows?

In turn, each in a process of its own, on the same strings and with the same cores: the whole pipeline; nothing but
`encode_batch_fast` (the limit); and `datasets.map` with the per-row rule of TRL, five calls of the tokenizer a row.
HH, the dataset with the longest answers and the one with the longest prompts, their rows repeated, each copy with its
number in the prompt. Prints a Markdown table of medians.

    python -m bench.preprocess [ROWS [ROUNDS]]
"""

import contextlib
import importlib
import importlib.metadata
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import datasets
import tokenizers

from bench.preference_texts import (
    TOKENIZERS,
    Row,
    hh_rows,
    read_jsonl,
    rows_of_long_answers,
    rows_of_long_prompts,
    write_jsonl,
)
from oddsmill.pipeline import PreprocessConfig, SourceConfig, preprocess
from oddsmill.pipeline.input.kinds.kind import BATCH_ROWS

CORES = os.cpu_count() or 1
# The texts to encode for each row, as (side, copies of the prompt before it).
SIDES = (("prompt", 0), ("chosen", 1), ("rejected", 1))
TOKENIZER = TOKENIZERS / "qwen2"

ROWS = "rows.jsonl"


def repeat(rows: list[Row], count: int) -> list[Row]:
    """Returns `count` rows; each copy of a prompt begins with its own number."""
    repeated = (rows[number % len(rows)] for number in range(count))
    return [row | {"prompt": f"{number // len(rows)}: {row['prompt']}"} for number, row in enumerate(repeated)]


def tokenize_row(row: Row, tokenizer: tokenizers.Tokenizer) -> dict[str, list[int]]:
    """Tokenizes like TRL's tokenize_row: the prompt, then for each answer the whole text and the prompt again."""
    ids = {"prompt_ids": tokenizer.encode(row["prompt"], add_special_tokens=False).ids}
    for side in ("chosen", "rejected"):
        whole = tokenizer.encode(row["prompt"] + row[side], add_special_tokens=False).ids
        prompt = tokenizer.encode(row["prompt"], add_special_tokens=False).ids
        size = len(prompt) if prompt == whole[: len(prompt)] else len(prompt) - 1
        ids[f"{side}_ids"] = whole[size:]
    return ids


def encode(folder: Path) -> float:
    """Returns the seconds of the tokenizer alone, its one call spread over the cores: the limit."""
    tokenizer = tokenizers.Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
    texts = [
        row["prompt"] * with_prompt + row[side] for row in read_jsonl(folder / ROWS) for side, with_prompt in SIDES
    ]
    started = time.perf_counter()
    for start in range(0, len(texts), 3 * BATCH_ROWS):
        tokenizer.encode_batch_fast(texts[start : start + 3 * BATCH_ROWS], add_special_tokens=False)
    return time.perf_counter() - started


def run(folder: Path) -> float:
    importlib.import_module("apache_beam")  # takes 2.5 s, which are not what is measured
    with tempfile.TemporaryDirectory(dir=folder) as output:
        source = SourceConfig(path=str(folder / ROWS), format="triple")
        config = PreprocessConfig(source=source, tokenizer=str(TOKENIZER), output=f"{output}/rows")
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            started = time.perf_counter()
            preprocess(config)
            return time.perf_counter() - started


def map_rows(folder: Path) -> float:
    datasets.disable_progress_bars()
    tokenizer = tokenizers.Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
    dataset = datasets.Dataset.from_list(read_jsonl(folder / ROWS))
    started = time.perf_counter()
    dataset.map(partial(tokenize_row, tokenizer=tokenizer), num_proc=CORES, load_from_cache_file=False)
    return time.perf_counter() - started


def measure(name: str, rows: list[Row], rounds: int) -> str:
    times: dict[Callable[[Path], float], list[float]] = {run: [], encode: [], map_rows: []}
    with tempfile.TemporaryDirectory() as folder:
        write_jsonl(Path(folder, ROWS), rows)
        for _ in range(rounds):  # in turn, so that a change of the machine's pace meets all three
            for side, seconds in times.items():
                # A process each: datasets.map leaves the tokenizers of its process on one core for good.
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                    seconds.append(process.submit(side, Path(folder)).result())
    ours, limit, mapped = (len(rows) / median(seconds) for seconds in times.values())
    return (
        f"| {name} | {len(rows):,} | {ours:,.0f} | {limit:,.0f} | {mapped:,.0f} | {ours / limit:.2f} "
        f"| {ours / mapped:.1f} |"
    )


def main(count: int, rounds: int) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    names = ("apache-beam", "datasets", "tokenizers")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    print(f"{CORES} cores, {platform.machine()}; tokenizer {TOKENIZER.name}; {versions}; median of {rounds}\n")
    print("| data | pairs | ours, pairs/s | encode_batch_fast | map of rows | ours / limit | ours / map |")
    print("|---|---|---|---|---|---|---|")
    print(measure("HH", repeat(hh_rows(), count), rounds), flush=True)
    print(measure("long answers", repeat(rows_of_long_answers(), count // 4), rounds), flush=True)
    print(measure("long prompts", repeat(rows_of_long_prompts(), count // 4), rounds), flush=True)


if __name__ == "__main__":
    main(*(int(value) for value in (*sys.argv[1:], *("16000", "3")[len(sys.argv) - 1 :])))
