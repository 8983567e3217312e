"""How long does each part of preprocessing take, before and after?

Runs the whole of `preprocess` under py-spy (`pip install py-spy`), which samples the stacks of all its processes,
and sums the samples by part. Encoding runs on one thread, so that no thread of the tokenizer's is missed. Prints
Markdown tables of this code and of another checkout's.

    python -m bench.preprocess_parts [--rows 32000] [--data HH …] [--before CHECKOUT]
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from bench import preprocess_sides
from bench.preference_texts import TOKENIZERS, write_jsonl
from bench.preprocess import chosen_cases
from bench.preprocess_sides import ROWS
from bench.result_page import Page

SAMPLES_A_SECOND = 200
DATA = ("HH", "long answers", "long prompts", "chat")
# The parts, and what is in a stack of theirs, in which a frame is "Class.function (file:line)": a sample belongs to the
# first part that fits.
PARTS = {
    "imports": r"\(<frozen importlib",
    "start of the run": r"\b(resolve_run|load_tokenizer|load_copy|\w+_engine|summarize_tokenizer|copy_tokenizer)\b"
    r"|\bFastEngine\.__init__ \(",
    "encode": r"\bTokenizer\.encode\w* \(|\(oddsmill/schemas/engines/",
    "render": r"\(oddsmill/(schemas/chat/|pipeline/tokens/(rendering|left_out))",
    "fingerprint": r"\b_?fingerprint\w* \(",
    "blocks": r"\b(ShardBlocks.rest|encode_block|write_block|read_block|open_blocks) \(",
    "pack": r"\(oddsmill/pipeline/tokens/packing",
    "records": r"\(oddsmill/(schemas/(record|stored/)|pipeline/output/rows)",
    "compress and write": r"\bwrite_shard \([^;]*$",
    "sort and check shards": r"\b_?write_shard \(",
    "place": r"\(oddsmill/pipeline/(formats/keys|output/placing)|\b_?place\w* \(",
    "ids": r"\(oddsmill/pipeline/(tokens/|formats/pairs)",
    "parse": r"\(oddsmill/pipeline/formats/|\b_?parse\w* \(oddsmill",
    "read, JSON": r"\(oddsmill/pipeline/input/",
    "between processes": r"\(multiprocessing/connection",
    "Beam": r"\(apache_beam/",
}
OTHER = "other"
OF_A_RUN = ("imports", "start of the run", "Beam")  # they hardly grow with the rows
_WAITS = re.compile(
    r"(^|;)(Thread\.(run|_wait_for_tstate_lock) \(threading|Condition\.wait \(threading|Popen\._wait \(subprocess"
    r"|_worker \(concurrent/futures/thread|process \d)[^;]*$"
)


def part_of(stack: str) -> str:
    """Returns the part that a stack of py-spy belongs to, frames from the outermost on."""
    return next((part for part, frame in PARTS.items() if re.search(frame, stack)), OTHER)


def sum_samples(lines: Iterable[str]) -> Counter[str]:
    """Sums the samples of py-spy by part, without those of before the run and of threads that wait."""
    samples = Counter[str]()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        if not count.isdigit():  # a command with line feeds in it takes several lines
            continue
        before_run = "<module> (bench/preprocess_sides" in stack and ";timed (" not in stack
        if not before_run and not _WAITS.search(stack):
            samples[part_of(stack)] += int(count)
    return samples


def profile(folder: Path, tokenizer: Path, code: str) -> dict[str, float]:
    """Returns the CPU seconds of the parts of a run.

    Args:
      folder: where the rows are.
      code: the checkout whose pipeline runs.
    """
    py_spy = shutil.which("py-spy")
    if py_spy is None:
        sys.exit("py-spy is not on the PATH: pip install py-spy")
    raw = folder / "samples.txt"
    run = [sys.executable, "-P", preprocess_sides.__file__, "ours", str(folder), str(tokenizer)]
    record = [py_spy, "record", "--subprocesses", f"--rate={SAMPLES_A_SECOND}", "--format=raw", f"--output={raw}"]
    environment = os.environ | {"PYTHONPATH": code, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    ran = subprocess.run([*record, "--", *run], env=environment, capture_output=True, text=True, check=True)
    measured = json.loads(next(line for line in ran.stdout.splitlines() if line.startswith("{")))
    samples = sum_samples(raw.read_text(encoding="utf-8").splitlines())
    cpu = measured["main_cpu"] + measured["children_cpu"]
    return {part: cpu * count / samples.total() for part, count in samples.items()}


def main(arguments: argparse.Namespace) -> None:
    page = Page("Where preprocessing spends its time", what="preprocess-parts", module="bench.preprocess_parts")
    codes = {"now": str(Path(__file__).parents[1])}
    if arguments.before:
        codes = {"before": arguments.before} | codes
    columns: dict[str, dict[str, float]] = {}
    counts: dict[str, int] = {}
    for case in chosen_cases(arguments.data or DATA):
        with tempfile.TemporaryDirectory() as folder:
            rows = case.draw(arguments.rows)
            write_jsonl(Path(folder, ROWS), rows)
            for which, code in codes.items():
                columns[f"{case.name}, {which}"] = profile(Path(folder), TOKENIZERS / case.tokenizer, code)
                counts[f"{case.name}, {which}"] = len(rows)
    page.say("CPU microseconds a pair, by samples of the stacks of all processes; qwen2.\n")
    page.head("part", *columns)
    parts = [part for part in [*PARTS, OTHER] if part not in OF_A_RUN]
    for part in parts:
        page.row(part, *(f"{1e6 * each.get(part, 0) / counts[name]:.1f}" for name, each in columns.items()))
    sums = {name: sum(each.get(part, 0) for part in parts) for name, each in columns.items()}
    page.row("**all**", *(f"**{1e6 * value / counts[name]:.0f}**" for name, value in sums.items()))
    page.say("\nCPU seconds a run, which hardly grow with the rows:\n")
    page.head("part", *columns)
    for part in OF_A_RUN:
        page.row(part, *(f"{each.get(part, 0):.2f}" for each in columns.values()))
    if arguments.file:
        page.file()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=32_000, help="rows of HH; there are fewer of the longer ones")
    parser.add_argument("--data", nargs="+", choices=DATA, help="all where it is left out")
    parser.add_argument("--before", help="another checkout, whose pipeline is measured too")
    parser.add_argument("--file", action="store_true", help="file the page in bench/results, too")
    main(parser.parse_args())
