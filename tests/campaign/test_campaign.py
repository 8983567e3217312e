"""Some cases of each attack, as `make campaign` tries by the thousand, and the harness itself."""

import contextlib
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.campaign import harness
from tests.campaign.harness import Attack, Broken, Case, run_attack, seeds_of
from tests.campaign.registry import ATTACKS, load_attack

QUICK = {name: entry.quick for name, entry in ATTACKS.items() if entry.quick}
SLOW = {name: entry.slow for name, entry in ATTACKS.items() if entry.slow}


def attempts(name: str, seeds: range, folder: Path) -> list[str]:
    report = run_attack(name, load_attack(name), seeds=seeds, folder=folder)
    return [f"python -m tests.campaign {name} --only={found.seed}: {found}" for found in report.findings]


@pytest.mark.parametrize("name", QUICK)
def test_a_few_cases_break_nothing(name: str, tmp_path: Path):
    assert not attempts(name, seeds_of(1, QUICK[name]), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_some_cases_break_nothing(name: str, tmp_path: Path):
    assert not attempts(name, seeds_of(2, SLOW[name]), tmp_path)


def attack(attempt: Any, **options: Any) -> Attack:
    return Attack("of a test", lambda _: contextlib.nullcontext(attempt), **options)


def test_what_breaks_is_found_and_its_seed_repeats_it(tmp_path: Path):
    drawn: list[float] = []

    def attempt(case: Case) -> None:
        drawn.append(case.rng.random())
        case.did(f"drew {drawn[-1]}")
        case.saw("numbers")
        case.expect(drawn[-1] < 0.5, "numbers are small")
        if drawn[-1] < 0.1:
            raise OSError("a fault")

    report = run_attack("numbers", attack(attempt), seeds=seeds_of(3, 100), folder=tmp_path)
    assert report.outcomes == {"numbers": 100}
    assert len(report.findings) == sum(not 0.1 <= number < 0.5 for number in drawn) > 0
    for finding in report.findings:
        (again,) = run_attack("numbers", attack(attempt), seeds=range(finding.seed, finding.seed + 1), folder=tmp_path)[
            3
        ]
        assert again.done == finding.done
        assert again.happened == "numbers are small" or "OSError: a fault" in again.happened


def test_a_case_that_hangs_is_told_and_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told, codes = [], []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(harness, "LOOKS_EVERY_S", 0.01)
    hanging = attack(lambda case: time.sleep(0.3), longest_s=0.1)
    run_attack("sleep", hanging, seeds=seeds_of(0, 1), folder=tmp_path, told=told.append)
    assert codes == [1]
    assert "hangs for more than" in told[0].happened and "time.sleep" in told[0].happened


def test_a_promise_that_does_not_hold_breaks_the_case():
    case = Case(0, random.Random(0))
    case.expect(True, "holds")
    with pytest.raises(Broken, match="does not"):
        case.expect(False, "does not")
