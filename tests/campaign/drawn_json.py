"""Alterations of JSON documents at random: of any value, key, list, or type."""

import copy
import random
from collections.abc import Iterator
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63) - 1, 10**30, 0.5, 1e308, float("nan"), float("inf"), "", "x",
    "../x", "/etc/passwd", "\ud800", "\x1b[2J", "x" * 5000, [], {}, [[]], [None], {"a": 1}, {"": None}, "0" * 64,
    "train-00000-of-00001.arrayrecord", "os:system", 1024, 65536, "null", "1", " ",
)  # fmt: skip


def alter(rng: random.Random, document: Any) -> tuple[Any, str]:
    """Alters a document in one place.

    Returns: the altered document, and what was done.
    """
    document = copy.deepcopy(document)
    holder, key, path = rng.choice([*_places(document)])
    value = holder[key]
    action = rng.randrange(9)
    if action <= 2:
        new = rng.choice(VALUES)
    elif action == 3:
        new = _near(rng, value)
    elif action == 4:
        del holder[key]
        return document, f"{path} is gone"
    elif action == 5 and isinstance(holder, dict):
        name = rng.choice((f"{key}x", key.upper() if key.islower() else key.lower(), "", "more", "\ud800"))
        holder[name] = holder.pop(key)
        return document, f"{path} is named {name!r}"
    elif action == 6:
        other, other_key, other_path = rng.choice([*_places(document)])
        holder[key], other[other_key] = copy.deepcopy(other[other_key]), copy.deepcopy(value)
        return document, f"{path} and {other_path} change places"
    elif action == 7 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(value))
        return document, f"{path} is there twice"
    else:
        new = rng.choice(([value], {"value": value}, str(value), [value] * 3))
    holder[key] = copy.deepcopy(new)
    return document, f"{path} is {str(new)[:80]!r} in place of {str(value)[:80]!r}"


def _near(rng: random.Random, value: Any) -> Any:
    """Returns a value of the same kind that is a little other."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + rng.choice((-1, 1, 2, 7))
    if isinstance(value, float):
        return value * rng.choice((0.5, 1.000001, -1))
    if isinstance(value, str) and value:
        at = rng.randrange(len(value))
        return value[:at] + rng.choice("0af9xZ/.") + value[at + 1 :]
    if isinstance(value, list):
        return value[:-1] if value else [0]
    return {**value, "more": 1} if isinstance(value, dict) else 0


def _places(value: Any, path: str = "") -> Iterator[tuple[Any, Any, str]]:
    for key, part in list(value.items()) if isinstance(value, dict) else list(enumerate(value)):
        name = f"{path}.{key}" if path else str(key)
        yield value, key, name
        if isinstance(part, dict | list):
            yield from _places(part, name)
