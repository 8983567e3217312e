"""Does time grow linearly with the rows, and does memory stay bounded?

Repeats the rows of HH, each copy with a running id at the head of its prompt, runs the pipeline on each number of
rows in a process of its own, and prints a Markdown table. Memory is the peak of the process tree's resident sets,
sampled ten times a second.

    python -m bench.scale [ROWS …]            10000 30000 100000 where none are given
"""

import gzip
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.preference_texts import HH, TOKENIZERS

TOKENIZER = TOKENIZERS / "qwen2"
SAMPLE_S = 0.1


def write_rows(target: Path, rows: int) -> None:
    """Writes HH's lines over and over, with a running id in each prompt, so that no two rows are equal."""
    lines = [line for line in gzip.decompress(HH.read_bytes()).split(b"\n") if line]
    with target.open("wb") as file:
        for number in range(rows):
            line = lines[number % len(lines)]
            file.write(line.replace(b'": "\\n\\nHuman:', b'": "\\n\\nHuman: %d.' % number) + b"\n")


def resident_bytes(root: int) -> int:
    """Returns the resident bytes of a process and all its descendants."""
    sizes, children = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        sizes[int(folder.name)] = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        children.setdefault(int(fields[1]), []).append(int(folder.name))
    total, stack = 0, [root]
    while stack:
        process = stack.pop()
        total += sizes.get(process, 0)
        stack += children.get(process, [])
    return total


def measure(command: list[str]) -> tuple[float, int]:
    """Runs a command; returns its seconds and the peak of its resident bytes."""
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, resident_bytes(process.pid))
            time.sleep(SAMPLE_S)
    if process.returncode:
        sys.exit(f"the run failed: {' '.join(command)}")
    return time.perf_counter() - started, peak


def main(sizes: list[int]) -> None:
    print("| rows | input, MB | seconds | rows/s | peak memory of all processes, MB |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for rows in sizes:
            source, output = Path(folder, "rows.jsonl"), Path(folder, f"out{rows}")
            write_rows(source, rows)
            settings = [f"--source.path={source}", f"--tokenizer={TOKENIZER}", f"--output={output}"]
            seconds, peak = measure([sys.executable, "-m", "oddsmill.pipeline", "run", *settings])
            size = source.stat().st_size
            print(f"| {rows:,} | {size / 1e6:,.0f} | {seconds:,.1f} | {rows / seconds:,.0f} | {peak / 1e6:,.0f} |")
            sys.stdout.flush()


if __name__ == "__main__":
    main([int(rows) for rows in sys.argv[1:]] or [10_000, 30_000, 100_000])
