"""A page of results: Markdown that is printed as it comes, and filed on request under its hardware and month.

Also the settings that the benchmarks share which measure several sides in turns.
"""

import argparse
import importlib.metadata
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.preference_texts import TEXTS

RESULTS = Path(__file__).parent / "results"


class Page:
    """The lines of a page of Markdown.

    Args:
      title: one line that says what was measured.
      what: the beginning of the file's name.
      module: the module that `python -m` runs.
    """

    def __init__(self, title: str, *, what: str, module: str):
        self._what, self._lines = what, []
        self.say(f"# {title}\n")
        command = shlex.join(["python", "-m", module, *sys.argv[1:]])
        self.say(f"`{command}`, {time.strftime('%Y-%m-%d')}. {cpu_name()}, {os.cpu_count()} cores.\n")

    def say(self, line: str = "") -> None:
        print(line, flush=True)
        self._lines.append(line)

    def head(self, *columns: str) -> None:
        self.row(*columns)
        self.say("|---" * len(columns) + "|")

    def row(self, *cells: str) -> None:
        self.say("| " + " | ".join(cells) + " |")

    def file(self, *, hardware: str | None = None) -> Path:
        """Files the page; `hardware` stands in its name, or the number of CPU cores where it is None."""
        RESULTS.mkdir(exist_ok=True)
        hardware = hardware or f"cpu{os.cpu_count()}"
        path = RESULTS / f"{self._what}_{hardware}_{time.strftime('%Y%m')}.md"
        path.write_text("\n".join(self._lines).rstrip() + "\n", encoding="utf-8")
        return path


def versions(names: Sequence[str]) -> str:
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Returns a parser that knows `data`, `rounds`, `core` and `file`, described by a docstring's first line."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--data", choices=[*TEXTS, "both"], default="both")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is measured, in turn")
    parser.add_argument("--core", type=int, default=0, help="the core that all run on")
    parser.add_argument("--file", action="store_true", help="file the page in bench/results, too")
    return parser


def chosen_texts(data: str) -> list[str]:
    """Returns the names in `TEXTS` that `--data` chooses."""
    return list(TEXTS) if data == "both" else [data]


def page_name(what: str, data: str) -> str:
    """Returns how the file's name begins: with the data, where not all of it was measured."""
    return what if data == "both" else f"{what}-{data}"
