"""Alters JSON documents and bytes at random: what a stranger's file may hold in place of the right one."""

import json
import random
from collections.abc import Iterator
from typing import Any

# As JSON text, for what no Python value writes: numbers beyond float64, double keys, lone surrogates.
_RAW = [
    "null", "true", "false", "0", "-1", "1", "2", "3", "1.5", "-0.5", "1e-30", "1e30", "1e400", "-1e400", "NaN",
    "Infinity", "-Infinity", str(2**31 - 1), str(2**31), str(2**63), "1000000000", "9" * 400, "9" * 5000, '""', '"0"',
    '"a"', '"\\ud800"', '"\\u0000"', '"\\u001b[2J"', json.dumps("x" * 100_000), "[]", "{}", "[1]", '["a"]', "[null]",
    "[[[]]]", '{"a": 1}', '{"": null}', "[" * 900 + "]" * 900, "[" * 100_000 + "]" * 100_000, '"../../etc/passwd"',
    '"/dev/zero"', '"os.system"',
]  # fmt: skip
_PLACEHOLDER = "\x01placeholder\x01"


def _places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from _places(value, (*path, key))


def _parent(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        tree = tree[key]
    return tree


def altered_document(rng: random.Random, content: bytes, *, most_places: int = 3000) -> bytes:
    """Returns a JSON document with one to three of its values replaced, removed, renamed, doubled or exchanged."""
    tree = json.loads(content)
    raw: list[str] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        shallow = [path for path in places if len(path) == 1]
        path = rng.choice(shallow if shallow and rng.random() < 0.5 else places[:most_places])
        if not path:
            if rng.random() < 0.9:
                continue
            return rng.choice(_RAW).encode()
        parent, key = _parent(tree, path), path[-1]
        kind = rng.choice(("value", "value", "value", "value", "number", "remove", "rename", "double", "exchange"))
        if kind == "value":
            raw.append(rng.choice(_RAW))
            parent[key] = f"{_PLACEHOLDER}{len(raw) - 1}"
        elif kind == "number" and type(parent[key]) in (int, float):
            parent[key] = rng.choice(
                (parent[key] + 1, parent[key] * 2, -parent[key], parent[key] * 10**6, parent[key] / 3)
            )
        elif kind == "remove":
            del parent[key]
        elif kind == "rename" and isinstance(parent, dict):
            parent[rng.choice((key.upper(), key + " ", key[:-1], "new", f" {key}"))] = parent.pop(key)
        elif kind == "double" and isinstance(parent, dict):
            raw.append(f"{json.dumps(parent[key])}, {json.dumps(key)}: {rng.choice(_RAW)}")
            parent[key] = f"{_PLACEHOLDER}{len(raw) - 1}"
        elif kind == "exchange":
            other = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
            parent[key], parent[other] = parent[other], parent[key]
    text = json.dumps(tree)
    for number, value in enumerate(raw):
        text = text.replace(json.dumps(f"{_PLACEHOLDER}{number}"), value)
    return text.encode()


def altered_bytes(rng: random.Random, content: bytes) -> bytes:
    """Returns bytes with a flip, a cut, a growth, or another encoding."""
    place = rng.randrange(max(len(content), 1))
    kind = rng.choice(
        ("flip", "flip", "flip", "cut", "cut", "grow", "zero", "empty", "bom", "utf16", "latin", "twice", "page")
    )
    if kind == "flip" and content:
        return content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :]
    if kind == "cut":
        return content[:place]
    if kind == "grow":
        return content[:place] + rng.randbytes(rng.choice((1, 7, 5000))) + content[place:]
    if kind == "zero":
        return content[:place] + bytes(len(content) - place)
    if kind == "bom":
        return b"\xef\xbb\xbf" + content
    if kind == "utf16":
        return content.decode("latin-1").encode("utf-16")
    if kind == "latin":
        return content[:place] + b"\xff\xfe\x80" + content[place:]
    if kind == "twice":
        return content + content
    if kind == "page":
        return b"<!DOCTYPE html><html><body>404</body></html>"
    return b""
