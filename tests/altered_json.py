"""Alterations of a JSON document, as damage and attackers make them: what every reader of others' JSON must refuse."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

# One of each kind that a reader trips over: a wrong type, a bound, a number that is none, a name that leads elsewhere.
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 2, 2**53, 10**30, -(2**63), 0.5, -0.0, 1e300, "", "x", "1", "../x", "/etc/passwd", "a\0b"),
    *("\ud800", "x" * 5000, [], [[]], [None], {}, {"": 0}, {"a": {"b": []}}, [{"name": 1}]),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path to every value in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def altered(document: Any, count: int, *, seed: int) -> Iterator[tuple[str, Any]]:
    """Yields altered copies of a document, each with a description.

    A value is replaced, taken away, stands under another key as well, or changes its place with another.
    """
    rng, paths = random.Random(seed), list(places(document))
    for _ in range(count):
        changed, path = copy.deepcopy(document), rng.choice(paths)
        parent = changed
        for key in path[:-1]:
            parent = parent[key]
        kind, value = rng.choice(("replace", "replace", "replace", "remove", "add")), rng.choice(VALUES)
        if kind == "replace":
            parent[path[-1]] = value
        elif kind == "remove":
            del parent[path[-1]]
        elif isinstance(parent, dict):
            parent[rng.choice(("surprise", "__class__", "../x", "\ud800", ""))] = value
        else:
            parent.insert(0, value)
        yield f"{kind} {'.'.join(map(str, path))} {value!r:.40}", changed


def broken_texts(text: str, count: int, *, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yields bytes that are no proper JSON document, or one beyond what a reader can hold, each with a description."""
    rng, content = random.Random(seed), text.encode()
    yield "empty", b""
    yield "byte order mark", b"\xef\xbb\xbf" + content
    yield "UTF-16", text.encode("utf-16")
    yield "not UTF-8", content.replace(b'"', b'"\xff', 1)
    yield "deep lists", b"[" * 100_000
    yield "deep objects", b'{"a":' * 100_000
    yield "two documents", content + content
    key = json.dumps(next(iter(json.loads(text)))).encode()
    yield "a key twice", content.replace(b"{", b"{" + key + b": 0,", 1)
    numbers = [index for index, character in enumerate(text) if character.isdigit() and text[index - 1] == " "]
    for number in ("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1" * 5000, "0x10", "1_000", "+1", "01"):
        place = rng.choice(numbers)
        end = place + 1
        while text[end].isalnum() or text[end] == ".":
            end += 1
        yield f"{number:.12} at {place}", (text[:place] + number + text[end:]).encode()
    for _ in range(count):
        place = rng.randrange(len(content))
        kind = rng.choice(("cut", "byte", "gap"))
        if kind == "cut":
            yield f"cut at {place}", content[:place]
        elif kind == "gap":
            yield f"gap at {place}", content[:place] + content[place + rng.randrange(1, 40) :]
        else:
            yield (
                f"byte {place}",
                content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :],
            )
