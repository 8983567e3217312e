"""Reads the files that a run writes line by line, metrics.jsonl and samples.jsonl, whatever became of their lines."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from oddsmill.schemas.console import log


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the lines of a metrics.jsonl, in order: `step`, and under each metric's name a number or a text.

    Arguments, and what becomes of other lines: see `_read_lines`.
    """
    return _read_lines(path, lambda line: all(map(_is_metric, line.values())))


def read_samples(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the lines of a samples.jsonl, in order: `step`, and the texts `prompt`, `answer` and `chosen`.

    Arguments, and what becomes of other lines: see `_read_lines`.
    """
    return _read_lines(path, lambda line: all(isinstance(line.get(name), str) for name in ("prompt", "answer")))


def _read_lines(path: Path, is_whole: Callable[[dict[str, Any]], bool]) -> Iterator[dict[str, Any]]:
    """Yields the objects of a file whose `step` is a number of steps and which are whole; none where no file is.

    Other lines are left out with a warning, but for a last one without an end: a kill or a full disk cut it off.
    """
    odd = []
    if path.exists():
        with path.open("rb") as file:
            for number, content in enumerate(file, 1):
                line = _parse(content)
                if line is not None and is_whole(line):
                    yield line
                elif content.endswith(b"\n"):
                    odd.append(number)
    if odd:
        numbers = ", ".join(map(str, odd[:5])) + (", …" if len(odd) > 5 else "")
        log.warning(f"{path}: {len(odd)} lines are not of this run's making and left out (line {numbers})")


def _parse(content: bytes) -> dict[str, Any] | None:
    """Returns the object of a line; None where it is none, or has no step."""
    try:
        line = json.loads(content, parse_constant=_refuse)
    except (ValueError, RecursionError):  # no UTF-8 and numbers of too many digits are ValueErrors too
        return None
    if not isinstance(line, dict) or type(line.get("step")) is not int or not 0 <= line["step"] < 2**53:
        return None
    return line


def _refuse(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")


def _is_metric(value: object) -> bool:
    """Metrics are texts, and numbers within the range of float32; NaN is in no range."""
    return isinstance(value, str) or (type(value) in (int, float) and abs(value) < 1e39)  # type: ignore[arg-type]
