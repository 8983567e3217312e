"""A page of results: Markdown that is printed as it comes, and filed on request under its hardware and month."""

import importlib.metadata
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


class Page:
    """Lines of Markdown.

    Args:
      title: what was measured, one line.
      what: how the file's name begins.
      module: that `python -m` runs.
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
        """Args: hardware: as it stands in the file's name; None: the number of CPU cores."""
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
