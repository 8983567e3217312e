"""JSON that others may have written or altered: read strictly, and held against a dataclass field by field.

A dataset, a run's folder and a model's folder are data. A value in them of another type than its field's, or out of its
bounds, is refused here by the name of the field, before any code counts on it.
"""

import dataclasses
import json
import math
import os
import re
import types
import typing
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from oddsmill.schemas.errors import Refused

T = TypeVar("T")
MAX_BYTES = 1 << 26  # of a file of ours: the manifest of 100,000 shards has 25 MB
MAX_DEPTH = 64  # of objects and lists inside each other, where a field may hold anything
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_MAX_SHOWN = 60  # characters of a value in a message


class Range(NamedTuple):
    """The bounds of a number, both included: `Annotated[int, Range(0, 9)]`."""

    lowest: float
    highest: float


class Form(NamedTuple):
    """The form of a text: `Annotated[str, Form(r"[0-9a-f]{64}", "64 hexadecimal digits")]`."""

    pattern: str
    in_words: str


_WHOLE = Range(-(2**53) + 1, 2**53 - 1)  # what every reader of JSON holds exactly
Count = Annotated[int, Range(0, _WHOLE.highest)]
Digest = Annotated[str, Form("[0-9a-f]{64}", "64 hexadecimal digits")]


class Malformed(ValueError):
    """A JSON text or a value in it is not what it must be; the message names the field."""


def parse_json(content: bytes | str, *, finite: bool = True) -> Any:
    """Parses JSON as its standard has it: UTF-8 and one value a key.

    Args:
      finite: NaN, Infinity and numbers beyond a float's are refused.

    Raises:
      Malformed: it is no such JSON; says where.
    """
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        hooks: dict[str, Any] = {"parse_constant": _refuse_constant, "parse_float": _finite_float} if finite else {}
        value = json.loads(text, object_pairs_hook=_object_of_pairs, **hooks)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError as error:
        raise Malformed(f"it holds what UTF-8 cannot: {error}") from error
    except RecursionError as error:
        raise Malformed("its objects and lists are nested too deeply") from error
    except Malformed:
        raise
    except ValueError as error:
        raise Malformed(f"it is no JSON: {error}") from error
    return value


def read_bounded(path: str | Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Returns the content of a file that holds a text.

    Raises:
      Malformed: it is larger than `max_bytes`.
      OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        content = b"" if size > max_bytes else file.read(max_bytes + 1)
    if max(size, len(content)) > max_bytes:
        raise Malformed(f"it has {size:,} bytes, more than the {max_bytes:,} that are read")
    return content


def read_object(path: str | Path, *, advice: str, finite: bool = True, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Reads the object in a JSON file.

    Args:
      advice: what to do about a damaged file, for the message.

    Raises:
      Refused: it cannot be read, is too large, or holds something else.
    """
    try:
        value = parse_json(read_bounded(path, max_bytes=max_bytes), finite=finite)
        if not isinstance(value, dict):
            raise Malformed(f"it holds {shown(value)}, no object")
    except Malformed as problem:
        raise Refused(f"{path} is damaged ({problem}); {advice}") from problem
    except OSError as error:
        raise Refused(f"{path} cannot be read ({error.strerror}); {advice}") from error
    return value


def as_type(kind: Any, value: Any, name: str = "") -> Any:
    """Returns a parsed JSON value as the type that a field has, objects as their dataclasses.

    Args:
      kind: a dataclass, bool, int, float, str, None, Any, a list, a tuple, a dict, a Literal, a union of these, or one
        of them `Annotated` with a `Range` or a `Form`.
      name: the dotted name of the field.

    Raises:
      Malformed: the value, or one in it, is of another type or out of its bounds.
    """
    origin, parts = _origin_and_parts(kind)
    if kind is Any:
        return _check_depth(value, name)
    if dataclasses.is_dataclass(kind):
        return _as_dataclass(typing.cast(type, kind), value, name)
    if origin in (typing.Union, types.UnionType):
        return _as_union(kind, parts, value, name)
    if origin in (list, dict) and isinstance(value, origin):
        if origin is list:
            return [as_type(parts[0], item, f"{name}[{index}]") for index, item in enumerate(value)]
        return {as_type(parts[0], key, name): as_type(parts[1], item, f"{name}.{key}") for key, item in value.items()}
    if origin is tuple and isinstance(value, list) and len(value) == len(parts):
        return tuple(as_type(part, item, f"{name}[{index}]") for index, (part, item) in enumerate(zip(parts, value)))  # noqa: B905
    if _holds(kind, value):
        return float(value) if kind is float or parts[:1] == (float,) else value
    raise Malformed(f"{name}={shown(value)}: must be {in_words(kind)}")


def shown(value: Any) -> str:
    """Returns a value as JSON, cut short, for a message."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def in_words(kind: Any) -> str:
    """Returns the name of a type in "must be …"."""
    origin, parts = _origin_and_parts(kind)
    if origin is Annotated:
        base, bounds = parts
        if isinstance(bounds, Form):
            return bounds.in_words
        if bounds.highest == _WHOLE.highest:
            return f"{in_words(base)} of at least {bounds.lowest}"
        return f"{in_words(base)} from {bounds.lowest} to {bounds.highest}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(in_words, parts))
    if origin is typing.Literal:
        return " or ".join(map(shown, parts))
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", types.NoneType: "null"}
    if origin is tuple:
        return f"a list of {len(parts)}"
    return names.get(kind) or ("a list" if origin is list else "an object")


@cache
def _origin_and_parts(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    return typing.get_origin(kind), typing.get_args(kind)


def _holds(kind: Any, value: Any) -> bool:
    """Says whether a value is of a type without parts, and within its bounds."""
    origin, parts = _origin_and_parts(kind)
    if origin is typing.Literal:
        return any(type(value) is type(choice) and value == choice for choice in parts)
    if origin is Annotated:
        base, bounds = parts
        if not _holds(base, value):
            return False
        if isinstance(bounds, Form):
            return re.fullmatch(bounds.pattern, value) is not None
        return bool(bounds.lowest <= value <= bounds.highest)
    if kind is int:
        return type(value) is int and _WHOLE.lowest <= value <= _WHOLE.highest  # true and false are no numbers
    if kind is float:
        return type(value) in (int, float) and abs(value) <= 1e300  # NaN is not
    return kind in (str, bool, types.NoneType) and type(value) is kind


def _as_union(kind: Any, parts: tuple[Any, ...], value: Any, name: str) -> Any:
    if value is None and types.NoneType in parts:
        return None
    others = [part for part in parts if part is not types.NoneType]
    for part in others:
        try:
            return as_type(part, value, name)
        except Malformed:
            if len(others) == 1 and not _has_no_parts(part):
                raise  # what is wrong in it says more than that it is wrong
    raise Malformed(f"{name}={shown(value)}: must be {in_words(kind)}")


def _has_no_parts(kind: Any) -> bool:
    return not dataclasses.is_dataclass(kind) and typing.get_origin(kind) not in (list, dict, tuple)


def _as_dataclass(kind: type, value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        raise Malformed(f"{name}={shown(value)}: must be an object" if name else f"it holds {shown(value)}, no object")
    known, needed = _fields(kind)
    prefix = f"{name}." if name else ""
    for field in value:
        if field not in known:
            raise Malformed(f"{prefix}{shown(field)[1:-1]} is no field that is known here")
    for field in needed:
        if field not in value:
            raise Malformed(f"{prefix}{field} is missing")
    return kind(**{field: as_type(known[field], item, prefix + field) for field, item in value.items()})


@cache
def _fields(kind: type) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Returns the types of a dataclass's fields by name, and the names of those without a default."""
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = dataclasses.fields(kind)
    needed = [each.name for each in fields if each.default is each.default_factory is dataclasses.MISSING]
    return {each.name: hints[each.name] for each in fields}, tuple(needed)


def _check_depth(value: Any, name: str) -> Any:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for each in level for item in _items(each)]
        if not level:
            return value
    raise Malformed(f"{name}: objects and lists are nested more than {MAX_DEPTH} deep")


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _object_of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise Malformed(f"an object has the key {shown(twice)} twice")
    return values


def _refuse_constant(name: str) -> Any:
    raise Malformed(f"it holds {name}, which is no number of JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise Malformed(f"it holds the number {text[:_MAX_SHOWN]}, which is too large")
    return value
