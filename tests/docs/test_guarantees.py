"""docs/explanation/guarantees.md: each promise names the tests that hold it. That these exist, test_names.py says."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "guarantees.md"
PROMISES = re.findall(r"^\| (?!promise|---)(.+?) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_page_has_promises_and_each_once():
    assert len(PROMISES) > 10
    assert len({promise for promise, _ in PROMISES}) == len(PROMISES)


@pytest.mark.parametrize(("promise", "tests"), PROMISES)
def test_a_promise_names_tests_alone(promise: str, tests: str):
    assert re.fullmatch(r"`tests/[\w/]+/test_\w+\.py:test_\w+`(, `tests/[\w/]+/test_\w+\.py:test_\w+`)*", tests)
