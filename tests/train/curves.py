"""What a run logged, without the time it took, and whether two curves are one."""

import json
from pathlib import Path
from typing import Any

import pytest

TIMINGS = {"tokens_per_second", "pairs_per_second", "mfu"}


def logged(run_dir: str | Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without timings."""
    lines = map(json.loads, (Path(run_dir) / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines]


def assert_equal_but_for_rounding(
    found: list[dict[str, Any]], expected: list[dict[str, Any]], *, relative: float = 2e-4, absolute: float = 2e-5
) -> None:
    """The same steps and the same order of the data, exactly; the same numbers, as far as float32 goes.

    Several processes know the order of the data at their saves and evaluations; what they found there must be equal.
    """
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    assert any("data_order" in line for line in found)
    for ours, theirs in zip(found, expected, strict=True):
        numbers = [{name: value for name, value in line.items() if name != "data_order"} for line in (ours, theirs)]
        if "data_order" in ours:
            assert ours["data_order"] == theirs["data_order"], ours["step"]
        assert numbers[0] == pytest.approx(numbers[1], rel=relative, abs=absolute), ours["step"]
