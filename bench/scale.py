"""Do time and CPU grow linearly with the rows, does memory stay bounded, and what would more cores give?

Draws rows like HH's (bench/many_rows.py), runs the pipeline on each number of them, once more on one core, and prints
Markdown. Memory is proportional set size, sampled four times a second: pages that processes share count once.

    python -m bench.scale [ROWS …] [--file]           10000 100000 1000000 where none are given
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import psutil

from bench.many_rows import VariedRows
from bench.preference_texts import TOKENIZERS, hh_rows, write_jsonl
from bench.result_page import Page

TOKENIZER = TOKENIZERS / "qwen2"
SAMPLE_S = 0.25
FILES = 16
CORES = os.cpu_count() or 1
ON_ONE_CORE = 100_000  # rows, at most
PREDICTED = (1, 2, 4, 8, 16, 32, 64)


class Measured:
    """The time and the memory that a run took.

    Attributes:
      rows: those of the input.
      seconds: from the command to its end.
      peak: bytes of all processes.
      main_cpu, other_cpu: CPU seconds of the command's own process, and of all others.
      main_peak, other_peak: bytes of the command's own process, and of the largest of the others.
    """

    def __init__(self, rows: int, command: Sequence[str], cores: int):
        self.rows, self.peak = rows, 0
        cpu, peaks = defaultdict[int, float](float), defaultdict[int, int](int)
        started = time.perf_counter()
        with tempfile.TemporaryFile("w+") as messages:
            pin = partial(os.sched_setaffinity, 0, range(cores))
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=messages, preexec_fn=pin) as process:
                while process.poll() is None:
                    self._sample(psutil.Process(process.pid), cpu, peaks)
                    time.sleep(SAMPLE_S)
            if process.returncode:
                messages.seek(0)
                sys.exit(f"the run failed: {' '.join(command)}\n{messages.read()}")
        self.seconds = time.perf_counter() - started
        self.main_cpu, self.main_peak = cpu.pop(process.pid), peaks.pop(process.pid)
        self.other_cpu, self.other_peak = sum(cpu.values()), max(peaks.values(), default=0)

    def _sample(self, root: psutil.Process, cpu: dict[int, float], peaks: dict[int, int]) -> None:
        total = 0
        with suppress(psutil.Error):  # it has ended
            for process in [root, *root.children(recursive=True)]:
                with suppress(psutil.Error):
                    times, size = process.cpu_times(), process.memory_full_info().pss
                    cpu[process.pid] = max(cpu[process.pid], times.user + times.system)
                    peaks[process.pid] = max(peaks[process.pid], size)
                    total += size
        self.peak = max(self.peak, total)


class Model:
    """Predicts a run on more cores from two that were measured, both large enough for worker processes.

    It assumes that the main process, which reads and hands out the rows, does it on one core, that all other work
    divides evenly among the cores, and that memory and disks keep up.

    Attributes:
      start: seconds that a run takes whatever its size.
      main, others: CPU seconds a pair.
    """

    def __init__(self, small: Measured, large: Measured):
        rows = large.rows - small.rows
        self.main = (large.main_cpu - small.main_cpu) / rows
        self.others = (large.other_cpu - small.other_cpu) / rows
        self.start = small.seconds - small.rows * (large.seconds - small.seconds) / rows

    def pairs_a_second(self, cores: int) -> float:
        """Returns the pairs a second of a long run."""
        return 1 / max(self.main, (self.main + self.others) / cores)

    @property
    def most_cores(self) -> float:
        """The number of cores from which on the main process is what a run waits for."""
        return (self.main + self.others) / self.main


def write_rows(folder: Path, rows: int, number: int) -> None:
    """Writes one of `FILES` files of rows, each of which goes on where the one before it ended."""
    first, end = rows * number // FILES, rows * (number + 1) // FILES
    write_jsonl(folder / f"rows{number:02}.jsonl", VariedRows(hh_rows(), seed=number).take(end - first, first=first))


def run(folder: Path, rows: int, cores: int) -> Measured:
    source = folder / f"{rows}"
    if not source.exists():
        source.mkdir()
        with ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as writers:
            list(writers.map(partial(write_rows, source, rows), range(FILES)))
    with tempfile.TemporaryDirectory(dir=folder) as output:
        settings = [f"--source.path={source}/*.jsonl", f"--tokenizer={TOKENIZER}", f"--output={output}/dataset"]
        return Measured(rows, [sys.executable, "-m", "oddsmill.pipeline", "run", *settings], cores)


def main(arguments: argparse.Namespace) -> None:
    page = Page("Preprocessing of many rows", what="preprocess-scale", module="bench.scale")
    page.say(f"Rows like HH's, {TOKENIZER.name}; the whole command. Memory is that of all processes at its peak.\n")
    page.head(
        "rows", "cores", "seconds", "pairs/s", "CPU seconds", "memory, MB", "main process, MB", "largest other, MB"
    )
    sizes, small = sorted(arguments.rows), min(ON_ONE_CORE, max(arguments.rows))
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for rows, cores in [*((size, CORES) for size in sizes), (small, 1)]:
            found[rows, cores] = each = run(Path(folder), rows, cores)
            sizes_mb = (f"{size / 1e6:,.0f}" for size in (each.peak, each.main_peak, each.other_peak))
            speed, cpu = rows / each.seconds, each.main_cpu + each.other_cpu
            page.row(f"{rows:,}", str(cores), f"{each.seconds:,.1f}", f"{speed:,.0f}", f"{cpu:,.1f}", *sizes_mb)
    if len(sizes) > 1:
        say_model(page, Model(found[sizes[-2], CORES], found[sizes[-1], CORES]), found[sizes[-1], CORES])
    if arguments.file:
        page.file()


def say_model(page: Page, model: Model, largest: Measured) -> None:
    page.say(
        f"\nA run takes {model.start:.1f} s and, a pair, {1e6 * model.main:.0f} µs of CPU in the main process and "
        f"{1e6 * model.others:.0f} µs in the others. The model: the main process works on one core, the others' work "
        f"divides evenly, so the main process is what a run waits for from {model.most_cores:.0f} cores on.\n"
    )
    page.head("cores", "pairs/s, predicted", "a million pairs, s", "memory, MB")
    for cores in PREDICTED:
        speed = model.pairs_a_second(cores)
        memory = largest.main_peak + cores * largest.other_peak
        page.row(str(cores), f"{speed:,.0f}", f"{model.start + 1e6 / speed:,.0f}", f"{memory / 1e6:,.0f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--file", action="store_true", help="file the page in bench/results, too")
    main(parser.parse_args())
