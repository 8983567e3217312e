"""Fixtures of the tests of the input."""

from collections.abc import Callable

import pytest


@pytest.fixture
def nasty(triples: Callable) -> list[dict[str, str]]:
    """Rows whose texts hold what divides rows, fields and texts in one kind of file or another."""
    texts = ['a "quoted", text', "two\nlines", "dos\r\nlines", "\u2028\u0085\t;", "]}[{,\\", "\x00 \U0001f600 é", ""]
    return [row | {"note": texts[number % len(texts)]} for number, row in enumerate(triples(50))]
