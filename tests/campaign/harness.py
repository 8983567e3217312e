"""The harness of the campaign: cases drawn from seeds, what became of them, a watch over those that hang, the findings.

An attack is a module of this folder with an `Attack`, and a line in `registry.py`. Its `prepare` makes once what all
cases need, and gives the function that tries one case. All that a case does is drawn from `case.rng`, so its seed
alone repeats it: `python -m tests.campaign NAME --only=SEED`.
"""

import contextlib
import json
import os
import random
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

LONGEST_S = 60.0  # a case that takes longer hangs
LOOKS_EVERY_S = 1.0
_SEEDS = 10_000_000  # the seeds of one campaign's cases: those of two campaigns are apart


class Broken(Exception):
    """A case ended otherwise than is promised. The message says how."""


@dataclass
class Case:
    """One case of an attack.

    Attributes:
      rng: the source of all that is random in the case.
      done: what was done, in words, for whoever looks at a finding.
      outcomes: counts what came of it, by name; the campaign adds these up.
    """

    seed: int
    rng: random.Random
    done: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def did(self, what: str) -> None:
        """Notes what is done; a finding tells it."""
        self.done.append(what)

    def saw(self, outcome: str, count: int = 1) -> None:
        """Counts what came of it."""
        self.outcomes[outcome] += count

    def expect(self, holds: bool, promise: str) -> None:
        """Ends the case where a promise does not hold.

        Raises:
          Broken: it does not.
        """
        if not holds:
            raise Broken(promise)


class Finding(NamedTuple):
    """A case in which something broke."""

    attack: str
    seed: int
    done: list[str]
    happened: str


Attempt = Callable[[Case], None]


class Attack(NamedTuple):
    """One attack.

    Attributes:
      about: what is attacked, and what must hold, in a line.
      prepare: takes an empty folder and yields the function that tries one case. Whatever that raises is a finding.
      longest_s: a case that takes longer hangs.
    """

    about: str
    prepare: Callable[[Path], "contextlib.AbstractContextManager[Attempt]"]
    longest_s: float = LONGEST_S


class Report(NamedTuple):
    """The outcome of an attack: its cases, and the findings among them."""

    cases: int
    seconds: float
    outcomes: Counter[str]
    findings: list[Finding]


def seeds_of(seed: int, count: int) -> range:
    """Returns the seeds of the cases of a campaign."""
    return range(seed * _SEEDS, seed * _SEEDS + count)


def run_attack(
    name: str,
    attack: Attack,
    *,
    seeds: range,
    folder: Path,
    begun: Callable[[int], None] = lambda _: None,
    told: Callable[[Finding], None] = lambda _: None,
) -> Report:
    """Tries the cases of these seeds, one after another.

    Args:
      folder: an empty folder.
      begun: is called with the seed of each case before it is tried, since the case may end the process.
      told: is called with each finding at once, since a later case may end the process.
    """
    outcomes, findings, started = Counter[str](), list[Finding](), time.monotonic()
    with attack.prepare(folder) as attempt, _watching(name, attack.longest_s, told) as watch:
        for seed in seeds:
            begun(seed)
            case = Case(seed, random.Random(seed))
            watch(case)
            try:
                attempt(case)
            except Exception as error:
                happened = str(error) if isinstance(error, Broken) else traceback.format_exc()
                findings.append(Finding(name, seed, case.done, happened))
                told(findings[-1])
            outcomes += case.outcomes
    return Report(len(seeds), time.monotonic() - started, outcomes, findings)


@contextlib.contextmanager
def _watching(name: str, longest_s: float, told: Callable[[Finding], None]) -> Iterator[Callable[[Case], None]]:
    """Yields the function that begins the watch of a case. A case that hangs ends the process: nothing else can."""
    running: list[tuple[Case, float]] = []
    main, ended = threading.main_thread().ident, threading.Event()

    def watch(case: Case) -> None:
        running[:] = [(case, time.monotonic())]

    def look() -> None:
        while not ended.wait(LOOKS_EVERY_S):
            if not running or time.monotonic() - running[0][1] <= longest_s:
                continue
            case = running[0][0]
            frames = "".join(traceback.format_stack(sys._current_frames()[main or 0]))
            told(Finding(name, case.seed, case.done, f"hangs for more than {longest_s:.0f} s:\n{frames}"))
            ended.set()
            os._exit(1)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()


def as_json(finding: Finding) -> str:
    """Returns a finding as a line of JSON."""
    return json.dumps(finding._asdict()) + "\n"
