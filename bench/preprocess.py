"""How near is preprocessing to the speed of the tokenizer, and how far from a map over single rows?

In one process, in turn, on the same strings and with the same cores: the whole pipeline; nothing but
`encode_batch_fast` (the limit); and `datasets.map` with the per-row rule of TRL, five calls of the tokenizer a row.
HH and the dataset with the longest texts, their rows repeated, each copy with its number in the prompt. Prints a
Markdown table of medians.

    python -m bench.preprocess [ROWS [ROUNDS]]
"""

import gzip
import importlib
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import datasets
import tokenizers

from pipeline import PreprocessConfig, SourceConfig, preprocess
from pipeline.sources import BATCH_ROWS

CORES = os.cpu_count() or 1
SHARED = Path(os.environ.get("ODDSMILL_SHARED", Path(__file__).parents[2] / "shared"))
HH = SHARED / "data/hh-rlhf-harmless/test.rows0-1599.jsonl.gz"
LONG = SHARED / "data/llamafactory-dpo-demo/dpo_en_demo.json.gz"
# What is encoded of a row: the prompt alone, and each answer behind it.
SIDES = (("prompt", 0), ("chosen", 1), ("rejected", 1))
TOKENIZER = SHARED / "data/tokenizers/qwen2"

Row = dict[str, str]


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def hh_rows() -> list[Row]:
    rows = []
    for line in gzip.decompress(HH.read_bytes()).splitlines():
        row = json.loads(line)
        end = row["chosen"].rfind("\n\nAssistant:") + len("\n\nAssistant:")
        rows.append({"prompt": row["chosen"][:end], "chosen": row["chosen"][end:], "rejected": row["rejected"][end:]})
    return [row for row in rows if row["chosen"].strip() and row["rejected"].strip()]


def long_rows() -> list[Row]:
    rows = []
    for row in json.loads(gzip.decompress(LONG.read_bytes())):
        prompt = "".join(f"\n\n{turn['from']}: {turn['value']}" for turn in row["conversations"]) + "\n\ngpt: "
        rows.append({"prompt": prompt, "chosen": row["chosen"]["value"], "rejected": row["rejected"]["value"]})
    return rows


def repeat(rows: list[Row], count: int) -> list[Row]:
    """`count` rows, no two prompts of different copies equal."""
    repeated = (rows[number % len(rows)] for number in range(count))
    return [row | {"prompt": f"{number // len(rows)}: {row['prompt']}"} for number, row in enumerate(repeated)]


def tokenize_row(row: Row, tokenizer: tokenizers.Tokenizer) -> dict[str, list[int]]:
    """TRL's tokenize_row with build_tokenized_answer: the prompt, and for each answer the whole and the prompt."""
    ids = {"prompt_ids": tokenizer.encode(row["prompt"], add_special_tokens=False).ids}
    for side in ("chosen", "rejected"):
        whole = tokenizer.encode(row["prompt"] + row[side], add_special_tokens=False).ids
        prompt = tokenizer.encode(row["prompt"], add_special_tokens=False).ids
        size = len(prompt) if prompt == whole[: len(prompt)] else len(prompt) - 1
        ids[f"{side}_ids"] = whole[size:]
    return ids


def measure(name: str, rows: list[Row], rounds: int) -> str:
    tokenizer = tokenizers.Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
    texts = [row["prompt"] * with_prompt + row[side] for row in rows for side, with_prompt in SIDES]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "rows.jsonl")
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))

        def encode() -> None:
            for start in range(0, len(texts), 3 * BATCH_ROWS):
                tokenizer.encode_batch_fast(texts[start : start + 3 * BATCH_ROWS], add_special_tokens=False)

        def run(output: str) -> None:
            config = PreprocessConfig(
                source=SourceConfig(path=str(source), format="triple"), tokenizer=str(TOKENIZER), output=output
            )
            preprocess(config, say=lambda line: None)

        def map_rows() -> None:
            dataset = datasets.Dataset.from_list(rows)
            dataset.map(partial(tokenize_row, tokenizer=tokenizer), num_proc=CORES, load_from_cache_file=False)

        datasets.disable_progress_bars()
        times: dict[str, list[float]] = {"limit": [], "ours": [], "map": []}
        for number in range(rounds):  # in turn, so that a change of the machine's pace meets all three
            times["limit"].append(seconds(encode))
            times["ours"].append(seconds(partial(run, f"{folder}/out{number}")))
            times["map"].append(seconds(map_rows))
    limit, ours, mapped = (len(rows) / median(times[key]) for key in ("limit", "ours", "map"))
    return (
        f"| {name} | {len(rows):,} | {ours:,.0f} | {limit:,.0f} | {mapped:,.0f} | {ours / limit:.2f} "
        f"| {ours / mapped:.1f} |"
    )


def main(count: int, rounds: int) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    importlib.import_module("apache_beam")  # takes 2.5 s, which are not what is measured
    names = ("apache-beam", "datasets", "tokenizers")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    print(f"{CORES} cores, {platform.machine()}; tokenizer {TOKENIZER.name}; {versions}; median of {rounds}\n")
    print("| data | pairs | ours, pairs/s | encode_batch_fast | map of rows | ours / limit | ours / map |")
    print("|---|---|---|---|---|---|---|")
    print(measure("HH", repeat(hh_rows(), count), rounds), flush=True)
    print(measure("long texts", repeat(long_rows(), count // 4), rounds), flush=True)


if __name__ == "__main__":
    main(*(int(value) for value in (*sys.argv[1:], *("16000", "3")[len(sys.argv) - 1 :])))
