"""How near is preprocessing to the speed of the tokenizer?

Runs the whole pipeline on the HH data (repeated, each copy with its own number in the text) and, beside it in
the same process with the same threads, nothing but `encode_batch_fast` on the same strings. Prints one Markdown
row. The medians of three rounds leave out the import of Beam, which the first one meets.

    python bench/preprocess.py [COPIES] [TOKENIZER]
"""

import gzip
import importlib.metadata
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import tokenizers

from pipeline import PreprocessConfig, SourceConfig, preprocess
from pipeline.drops import Dropped, Origin
from pipeline.formats import parse_row
from pipeline.sources import BATCH_ROWS, RawRow

SHARED = Path(os.environ.get("ODDSMILL_SHARED", Path(__file__).parents[2] / "shared"))
HH = SHARED / "data/hh-rlhf-harmless/test.rows0-1599.jsonl.gz"
ROUNDS = 3


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def write_copies(target: Path, copies: int) -> None:
    """The rows of HH, `copies` times, no two of them equal."""
    lines = gzip.decompress(HH.read_bytes()).split(b"\n")
    with target.open("wb") as file:
        for copy in range(copies):
            mark = b'": "\\n\\nHuman: %d.' % copy
            for line in filter(None, lines):
                file.write(line.replace(b'": "\\n\\nHuman:', mark) + b"\n")


def texts_of(path: Path) -> list[str]:
    """The strings that the pipeline encodes, in the order of the rows."""
    texts = []
    for number, line in enumerate(path.read_bytes().split(b"\n")):
        try:
            pair = parse_row(RawRow(Origin(0, number), line), format_name="transcript", fields={})
        except Dropped:
            continue
        texts += [pair.prompt, pair.prompt + pair.chosen, pair.prompt + pair.rejected]
    return texts


def main(copies: int, tokenizer_folder: Path) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "hh.jsonl")
        write_copies(source, copies)
        texts = texts_of(source)

        def encode() -> None:
            for start in range(0, len(texts), 3 * BATCH_ROWS):
                tokenizer.encode_batch_fast(texts[start : start + 3 * BATCH_ROWS], add_special_tokens=False)

        def run(output: str) -> None:
            config = PreprocessConfig(
                source=SourceConfig(path=str(source), format="transcript"),
                tokenizer=str(tokenizer_folder),
                output=output,
            )
            preprocess(config, say=lambda line: None)

        pairs = len(texts) // 3
        raw, ours = [], []
        for number in range(ROUNDS):  # in turn, so that a change of the machine's pace meets both
            raw.append(pairs / seconds(encode))
            ours.append(pairs / seconds(partial(run, f"{folder}/out{number}")))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("apache-beam", "tokenizers"))
    print("| pairs | tokenizer | ours, pairs/s | encode_batch_fast alone, pairs/s | ratio | machine | versions |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {pairs:,} | {tokenizer_folder.name} | {median(ours):,.0f} | {median(raw):,.0f} "
        f"| {median(ours) / median(raw):.2f} | {os.cpu_count()} cores, {platform.machine()} "
        f"| {versions}, FnApiRunner in_memory, defaults of PreprocessConfig |"
    )


if __name__ == "__main__":
    copies, name = (*sys.argv[1:], *("10", str(SHARED / "data/tokenizers/qwen2"))[len(sys.argv) - 1 :])
    main(int(copies), Path(name))
