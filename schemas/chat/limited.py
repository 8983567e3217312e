"""Operators, filters and methods of a chat template that could make much of little: each looks before it does.

Source: the filters of Jinja 3.1 (jinja2/filters.py) and the methods of Python's types.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sized
from typing import Any

from oddsmill.schemas.chat.metering import (
    ITEM,
    MAX_BITS,
    MAX_WIDTH,
    TooCostly,
    charge,
    check_size,
    depth,
    light,
    listed,
    measure,
)

_FEW = 100  # digits, and columns of an indentation
_SLOW_TEXT = 100_000  # characters that filters of regular expressions take
_WIDE = re.compile(r"\d{5,}")
_NESTED_FIELD = re.compile(r":[^{}]*\{")


def _size(value: Any) -> int:
    return len(value) if isinstance(value, Sized) else 0


def _width(value: Any, most: int = MAX_WIDTH) -> None:
    if isinstance(value, (int, float)) and not -most <= value <= most:
        raise TooCostly(f"it asks for a width of more than {most:,}")


def times(left: Any, right: Any) -> Any:
    """Multiplies; a text or a list is repeated."""
    for value, count in ((left, right), (right, left)):
        if isinstance(value, (str, bytes, list, tuple)) and isinstance(count, int):
            check_size((len(value) if isinstance(value, (str, bytes)) else measure(value)) * max(count, 0))
    return light(left * right)


def power(left: Any, right: Any) -> Any:
    """Raises to a power."""
    if isinstance(left, int) and isinstance(right, int) and abs(right) * left.bit_length() > MAX_BITS:
        raise TooCostly(f"it makes a number of more than {MAX_BITS:,} bits")
    return left**right


def modulo(left: Any, right: Any) -> Any:
    """Returns the remainder; a text is a format."""
    if isinstance(left, (str, bytes)):
        _check_printf(left, right)
        return light(left % right)
    return left % right


def joined(*parts: Any) -> str:
    """Returns the texts of some values, one after another."""
    texts = list(map(str, parts))
    check_size(sum(map(len, texts)))
    return light("".join(texts))


def _check_printf(form: Any, values: Any) -> None:
    text = form if isinstance(form, str) else form.decode("latin-1")
    stars = any(
        isinstance(value, int) and abs(value) > MAX_WIDTH for value in (values if isinstance(values, tuple) else ())
    )
    if _WIDE.search(text) or ("*" in text and stars):
        raise TooCostly(f"it asks for a width of more than {MAX_WIDTH:,}")
    check_size(len(text) + text.count("%") * measure(values))


def _check_format(form: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    if _WIDE.search(form) or _NESTED_FIELD.search(form):
        raise TooCostly(f"it formats with a width of more than {MAX_WIDTH:,}, or one that stands in the values")
    check_size(len(form) + form.count("{") * measure((args, dict(kwargs))))


def _check_replace(value: Any, old: Any = "", new: Any = "", count: Any = None, **_: Any) -> None:
    size, new_size = _size(str(value) if not isinstance(value, (str, bytes)) else value), len(str(new))
    check_size(size + (size // max(_size(old), 1) + 1) * new_size)


def _check_indent(value: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    _width(width, _FEW)
    check_size(_size(value) + (str(value).count("\n") + 1) * (_size(width) or width))


def _check_json(value: Any, *args: Any, indent: Any = None, **_: Any) -> None:
    columns = indent if len(args) < 2 else args[1]
    if columns:
        _width(columns, _FEW)
        size = measure(value)
        check_size(size // 8 * (8 + depth(value) * (_size(columns) or int(columns))))


def _check_sum(value: Any, *_: Any, start: Any = 0, **__: Any) -> None:
    if _size(value) > _FEW and not isinstance(start, (int, float)):
        raise TooCostly("it adds up more than a hundred lists")


def _check_join(value: Any, d: Any = "", *_: Any, **__: Any) -> None:
    check_size(measure(value) + _size(value) * len(str(d)))


def _check_slow(value: Any, *_: Any, **__: Any) -> None:
    if _size(value) > _SLOW_TEXT:
        raise TooCostly(f"it takes more than {_SLOW_TEXT:,} characters into a slow filter")


def _check_cost(value: Any, *_: Any, **__: Any) -> None:
    charge(ITEM * _size(value))


def _check_first(value: Any, first: Any = 0, *_: Any, **__: Any) -> None:
    _width(first)


def _check_nothing(*_: Any, **__: Any) -> None:
    pass


# What is looked at before a filter is applied; what it makes is looked at afterwards.
_BEFORE: dict[str, Callable[..., None]] = {
    **dict.fromkeys(("batch", "center", "slice"), _check_first),
    "round": lambda value, precision=0, *_, **__: _width(precision, _FEW),
    "truncate": _check_nothing,
    "indent": _check_indent,
    "replace": _check_replace,
    "format": lambda value, *args, **kwargs: _check_printf(str(value), args or kwargs),
    "tojson": _check_json,
    "sum": _check_sum,
    **dict.fromkeys(("pprint", "striptags", "urlencode", "urlize", "wordcount", "wordwrap", "xmlattr"), _check_slow),
    **dict.fromkeys(("map", "reject", "rejectattr", "select", "selectattr"), _check_cost),
    **dict.fromkeys(("escape", "e", "forceescape", "string"), _check_nothing),
    **dict.fromkeys(("groupby", "list", "sort", "unique"), _check_nothing),
    "join": _check_join,
}  # fmt: skip
_LAZY = ("map", "reject", "rejectattr", "select", "selectattr")  # they take an iterator and give one


def limit_filters(filters: dict[str, Any]) -> dict[str, Any]:
    """Returns the filters of an environment, those that could cost much with their bounds."""
    return filters | {name: _limited(filters[name], before, lazy=name in _LAZY) for name, before in _BEFORE.items()}


def _limited(function: Callable[..., Any], before: Callable[..., None], *, lazy: bool) -> Callable[..., Any]:
    at = 1 if hasattr(function, "jinja_pass_arg") else 0  # Jinja gives its context first

    @functools.wraps(function)
    def apply(*args: Any, **kwargs: Any) -> Any:
        if lazy:
            before(*args[at:], **kwargs)
            return function(*args, **kwargs)
        if len(args) > at:
            args = (*args[:at], listed(args[at]), *args[at + 1 :])
        before(*args[at:], **kwargs)
        return light(listed(function(*args, **kwargs)))

    return apply


def _first_width(self: Any, *args: Any, **kwargs: Any) -> None:
    for value in (*args, *kwargs.values()):
        _width(value)


def _few_bytes(self: Any, *args: Any, **kwargs: Any) -> None:
    for value in (*args, *kwargs.values()):
        _width(value, _FEW)


def _check_tabs(self: Any, *args: Any, **kwargs: Any) -> None:
    _few_bytes(self, *args, **kwargs)
    check_size(_size(self) * _FEW)


def _check_translate(self: Any, table: Any, *_: Any) -> None:
    longest = max((_size(value) for value in table.values()), default=0) if isinstance(table, dict) else 1
    check_size(_size(self) * max(longest, 1))


_METHODS: dict[str, Callable[..., None]] = {
    **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _first_width),
    "to_bytes": _few_bytes,
    "expandtabs": _check_tabs,
    "replace": _check_replace,
    "translate": _check_translate,
    "join": _check_nothing,
    "fromkeys": _check_nothing,
}


def limited_method(method: Any) -> Callable[..., Any] | None:
    """Returns a builtin method that could make much of little with its bounds; None for another one."""
    before = _METHODS.get(method.__name__)
    if before is None:
        return None

    def apply(*args: Any, **kwargs: Any) -> Any:
        if method.__name__ == "join":
            args = tuple(list(listed(iter(items))) for items in args[:1]) + args[1:]
            check_size(sum(map(_size, args[0])) + len(args[0]) * _size(method.__self__))
        before(method.__self__, *args, **kwargs)
        return light(method(*args, **kwargs))

    return apply


def limited_format(form: str, function: Callable[..., str]) -> Callable[..., str]:
    """Returns the method `format` or `format_map` of a text with its bounds."""

    def apply(*args: Any, **kwargs: Any) -> str:
        _check_format(form, args, kwargs)
        result: str = light(function(*args, **kwargs))
        return result

    return apply
