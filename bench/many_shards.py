"""Do very many shards and pairs work? Time and memory of `verify`, of two starts of a training run, and of its loader.

One shard is preprocessed from a few texts; all others are copies of it with pair ids of their own, a hundredth of them
in the eval split. `verify`, the starts and the loader run in processes of their own that may have few files open.

    python -m bench.many_shards [--shards=10000] [--pairs=10000000] [--open_files=1024] [--folder=DIR] [--file]

The default takes 15 GB of disk and half an hour on one core; --shards=200 --pairs=200000 a minute.
Exits with 1 if `verify` takes more than 1 GB, the second start hashes a shard, or the loader gives fewer rows a second
than 50 times those that a step of bench/loader.py consumes.
"""

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from array_record.python.array_record_module import ArrayRecordWriter

from bench.model_shapes import TOY
from bench.preference_texts import SHARED
from bench.process_meter import peak_rss_bytes
from bench.result_page import Page, versions
from bench.training_data import preprocess_texts, write_model_config
from oddsmill.schemas.dataset_files import open_shard
from oddsmill.schemas.manifest import MANIFEST_NAME, Manifest, Shard, SplitSummary, file_sha256, read_manifest
from oddsmill.schemas.provenance import PROVENANCE_SCHEMA, provenance_path, write_provenance
from oddsmill.schemas.record import decode_row

ROW_LENGTH = 256
MOST_BYTES = 1 << 30
STEP_ROWS_PER_S = 0.9  # of bench/loader.py on two cores: 0.22 rows of 1,024 a second, so four times as many of 256
BOUND = 50
LOADER_S = 10.0


def write_shards(folder: Path, template: Path, manifest: Manifest, *, shards: int) -> Manifest:
    """Writes copies of the one shard of a dataset, each with ids of its own, and returns their manifest."""
    (one,) = manifest.splits["train"].shards
    reader = open_shard(str(template / one.name))
    records = reader.read(list(range(one.records)))
    rows = [decode_row(record, row_length=manifest.row_length).pair_ids for record in records]
    places = [record.index(ids.tobytes()) for record, ids in zip(records, rows, strict=True)]
    sizes = [len(ids) for ids in rows]
    ends, pairs = np.cumsum(sizes), sum(sizes)
    columns = {
        "row": np.repeat(np.arange(len(sizes)), sizes),
        "file": pa.DictionaryArray.from_arrays(pa.array(np.zeros(pairs, np.int32)), pa.array(["/data/rows.jsonl"])),
    }
    (folder / "provenance").mkdir()
    splits: dict[str, list[Shard]] = {"train": [], "eval": []}
    of_eval = max(1, shards // 100)
    counts = {"train": shards - of_eval, "eval": of_eval}
    for number in range(shards):
        split = "train" if number < counts["train"] else "eval"
        name = f"{split}-{len(splits[split]):05d}-of-{counts[split]:05d}.arrayrecord"
        numbers = np.arange(number * pairs + 1, (number + 1) * pairs + 1, dtype=np.uint64)
        ids = numbers * np.uint64(0x9E3779B97F4A7C15)  # odd, so no two are equal
        writer = ArrayRecordWriter(str(folder / name), "group_size:1,zstd:3")
        for record, place, size, end in zip(records, places, sizes, ends.tolist(), strict=True):
            writer.write(record[:place] + ids[end - size : end].tobytes() + record[place + 8 * size :])
        writer.close()
        lines = columns | {"id": ids, "prompt_id": ids ^ np.uint64(1 << 63), "file_row": numbers.astype(np.int64)}
        write_provenance(
            provenance_path(str(folder), name), pa.table({field: lines[field] for field in PROVENANCE_SCHEMA.names})
        )
        path = folder / name
        splits[split].append(
            Shard(name=name, records=len(records), bytes=path.stat().st_size, sha256=file_sha256(path))
        )
    of_one = manifest.splits["train"]
    return dataclasses.replace(
        manifest,
        splits={split: times(of_one, counts[split], shards=found) for split, found in splits.items()},
        ledger=dataclasses.replace(manifest.ledger, rows_in=shards * pairs, pairs_out=shards * pairs),
        counts={name: shards * number for name, number in manifest.counts.items()},
    )


def times(split: SplitSummary, count: int, *, shards: list[Shard]) -> SplitSummary:
    """Returns the summary of `count` splits that are alike, in these shards."""

    def more(numbers: dict[str, int]) -> dict[str, int]:
        return {name: count * number for name, number in numbers.items()}

    return dataclasses.replace(
        split,
        shards=shards,
        rows=count * split.rows,
        pairs=count * split.pairs,
        tokens=more(split.tokens),
        truncated=more(split.truncated),
        length_histograms={side: more(lengths) for side, lengths in split.length_histograms.items()},
    )


def make(folder: Path, *, shards: int, pairs: int, tokenizer: str) -> None:
    """Makes the dataset, and a model's config.json beside it."""
    template, each = folder / "template", pairs // shards
    rows = [{"prompt": f"What is {n}?", "chosen": f" It is {n}.", "rejected": " No."} for n in range(each)]
    made = preprocess_texts(
        rows, template, tokenizer=tokenizer, max_length=128, texts=folder / "texts.jsonl",
        row_length=ROW_LENGTH, num_shards=1, max_drop_share=0,
    )  # fmt: skip
    data = folder / "data"
    data.mkdir()
    (template / "tokenizer").rename(data / "tokenizer")
    manifest = write_shards(data, template, made, shards=shards)
    (data / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    write_model_config(folder, TOY, manifest.tokenizer.vocab_size)


@contextmanager
def counting_files() -> Iterator[Counter[str]]:
    """Counts, some hundred times a second, the open files of this process while the body runs; keeps the most."""
    found, over = Counter[str](), threading.Event()

    def look() -> None:
        while not over.wait(0.003):
            found["most"] = max(found["most"], len(os.listdir("/proc/self/fd")))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def start(folder: Path) -> dict[str, Any]:
    """Prepares a run as `oddsmill train run` does, remembers what it compared, and reads rows; returns the figures."""
    from oddsmill.schemas.files import publish_text
    from oddsmill.train.config.model import ModelConfig
    from oddsmill.train.config.train_config import TrainConfig
    from oddsmill.train.data import verified_shards
    from oddsmill.train.data.loader import train_batches
    from oddsmill.train.prepare import prepare

    hashed, original = Counter[str](), verified_shards.problem_of_shard

    def count(*shard: Any) -> str | None:
        hashed["shards"] += 1
        return original(*shard)

    verified_shards.problem_of_shard = count
    model = ModelConfig(config=str(folder / "config.json"))
    config = TrainConfig(data=str(folder / "data"), run_dir=str(folder / "run"), model=model, max_steps=1000)
    with counting_files() as files:
        begun = time.perf_counter()
        run = prepare(config)
        prepared_s = time.perf_counter() - begun
        run.files.verified_shards.parent.mkdir(exist_ok=True)
        publish_text(run.files.verified_shards, json.dumps(run.verified_shards))
        begun = time.perf_counter()
        batches = train_batches(config.data, run.data.manifest, rows_per_step=8, shuffle=True, seed=0)
        next(batches)
        first_s, rows, begun = time.perf_counter() - begun, 0, time.perf_counter()
        while time.perf_counter() - begun < LOADER_S:
            rows += len(next(batches)["inputs"])
        rows_per_s = rows / (time.perf_counter() - begun)
        batches.close()
    return {
        "prepared_s": prepared_s, "hashed": hashed["shards"], "first_batch_s": first_s, "rows_per_s": rows_per_s,
        "open_files": files["most"], "peak_bytes": peak_rss_bytes(),
    }  # fmt: skip


def run(command: list[str], *, open_files: int) -> tuple[str, float, int]:
    """Runs a module in a process with few open files; returns its output, its seconds, and its peak of memory."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))

    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True, preexec_fn=limit)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{output}")
    return output, time.perf_counter() - begun, usage.ru_maxrss * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--open_files", type=int, default=1024, help="how many files a process may have open")
    parser.add_argument("--tokenizer", default=str(SHARED / "data" / "tokenizers" / "phi-3-mini"))
    parser.add_argument("--folder", type=Path, help="where the dataset is made, or is from an earlier run")
    parser.add_argument("--start", action="store_true", help="(of itself: one start, on what is there)")
    parser.add_argument("--file", action="store_true", help="file the page in bench/results/")
    arguments = parser.parse_args()
    if arguments.start:
        print(json.dumps(start(arguments.folder)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "data" / MANIFEST_NAME).is_file():
            make(folder, shards=arguments.shards, pairs=arguments.pairs, tokenizer=arguments.tokenizer)
        return measure(folder, arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> int:
    page = Page("Very many shards and pairs", what="many_shards", module="bench.many_shards")
    manifest, open_files = read_manifest(folder / "data"), arguments.open_files
    pairs = sum(split.pairs for split in manifest.splits.values())
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    page.say(
        f"{versions(['jax', 'grain', 'array-record', 'pyarrow'])}. {len(shards):,} shards, {pairs:,} pairs in rows of "
        f"{manifest.row_length}, {sum(shard.bytes for shard in shards) / 1e9:.2f} GB; a process may have "
        f"{open_files:,} files open.\n"
    )
    _, seconds, peak = run(["oddsmill.pipeline", "verify", str(folder / "data")], open_files=open_files)
    page.head("", "seconds", "peak memory, MB", "most open files", "shards hashed", "rows/s of the loader, shuffled")
    page.row("verify", f"{seconds:.1f} ({seconds / pairs * 1e6:.1f} us a pair)", f"{peak / 1e6:.0f}", "", "all", "")
    holds = peak <= MOST_BYTES
    (folder / "run" / "verified_shards.json").unlink(missing_ok=True)
    for what in ("first start", "second start"):
        output, _, _ = run(["bench.many_shards", "--start", f"--folder={folder}"], open_files=open_files)
        found = json.loads(output.splitlines()[-1])
        page.row(
            what,
            f"{found['prepared_s']:.1f}, first batch {found['first_batch_s']:.2f}",
            f"{found['peak_bytes'] / 1e6:.0f}",
            f"{found['open_files']}",
            f"{found['hashed']:,}",
            f"{found['rows_per_s']:,.0f} ({found['rows_per_s'] / STEP_ROWS_PER_S:,.0f} times a step's)",
        )
        holds &= found["rows_per_s"] >= BOUND * STEP_ROWS_PER_S
    holds &= found["hashed"] == 0
    if arguments.file:
        page.file()
    return int(not holds)


if __name__ == "__main__":
    sys.exit(main())
