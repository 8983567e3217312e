"""A row as it was read, before any format: its place in the input and its values."""

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import orjson

from oddsmill.schemas.drops import Dropped, DropReason, Origin

_R = TypeVar("_R")
# Lists and objects may be nested so deep in a row. Python's limit of about 1,000 calls holds for the encoder of JSON
# too, which makes two calls a level; how much of it is left depends on the runner, and a drop must not.
DEEPEST_NESTING = 400
_FIRST_ROUNDED = float(1 << 63)
# A text that begins so may be the text of another value.
_TYPED = frozenset("[{-0123456789")
_JSON_BEGIN = re.compile(r'[\s\[]*+(?:[]"0-9]|\{\s*+["}]|-[0-9I]|true|false|null|NaN|Infinity)')
_WHOLE_NUMBER = re.compile(r"(-?[0-9]+)\.0+")
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*+"|([\[{])|[\]}]', re.DOTALL)
# Escaping to ASCII takes two thirds of the time that UTF-8 takes: 5 us for a row of HH.
_canonical = json.JSONEncoder(sort_keys=True, default=repr, check_circular=False).encode
_readable = json.JSONEncoder(sort_keys=True, default=repr, ensure_ascii=False).encode


class RawRow(NamedTuple):
    """A row as it was read: a line of JSON or an element of an array, or the values of a record.

    Attributes:
      content: The bytes of a JSON text, or the values of a record by column.
      problem: Why the row cannot be read, where that is known; `content` is then the bytes there.
      parsed: The value of the JSON text, where it was parsed already.
    """

    origin: Origin
    content: bytes | dict[str, Any]
    problem: str | None = None
    parsed: Any = None

    def values(self) -> Any:
        """Returns the value of the row: any JSON value, a dictionary if the row is good.

        Raises:
          Dropped: The row is unreadable.
        """
        if self.problem is not None:
            raise Dropped(DropReason.UNREADABLE, self.problem)
        if not isinstance(self.content, bytes):
            return self.content
        return parse_json(self.content) if self.parsed is None else self.parsed

    def as_bytes(self) -> bytes:
        """Returns the bytes that stand for this row in the source's fingerprint.

        Equal rows have equal bytes whatever kind of file they come from. So a key that is null or, as in CSV, an empty
        text counts as none; 1 and 1.0 are the same number, and so are they and their text; JSON text of a list or an
        object, as a CSV cell has it, is that list or object.
        """
        try:
            values = self.values()
        except Dropped:
            assert isinstance(self.content, bytes)
            return self.content
        return _in_fresh_stack(_encode, values).encode()

    def as_text(self) -> str:
        """Returns the whole row for a person to read; bytes that are not UTF-8 are written as \\xNN."""
        if isinstance(self.content, bytes):
            return self.content.decode("utf-8", "backslashreplace")
        text = _in_fresh_stack(_readable, self.content)
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "backslashreplace")


def make_row(origin: Origin, content: bytes | dict[str, Any], problem: str | None) -> RawRow:
    """Makes a row and parses it once: the fingerprint and the format need its value, the rejects its bytes."""
    parsed = None
    if problem is None and isinstance(content, bytes):
        try:
            parsed = parse_json(content)
        except Dropped as dropped:
            problem = dropped.detail
    return RawRow(origin, content, problem, parsed)


def parse_json(line: bytes) -> Any:
    """Returns the value of one JSON text, as `json.loads` does: the fast parser's, where it is sure to be the same.

    Raises:
      Dropped: The text is unreadable.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return _parse_slowly(line)  # it may hold NaN or a lone surrogate, and else the message says where it breaks
    if _may_be_deep(line):
        _check_nesting(line)
    return _parse_slowly(line) if _may_be_rounded(value) else value


def _parse_slowly(line: bytes) -> Any:
    try:
        text = line.decode("utf-8")
        if _may_be_deep(line):
            _check_nesting(line)
        return json.loads(text)
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} (0x{line[error.start]:02x}) is not UTF-8"
    except json.JSONDecodeError as error:
        problem = f"broken JSON at character {error.pos}: {error.msg}"
    except (ValueError, RecursionError) as error:
        problem = f"broken JSON: {error}"
    raise Dropped(DropReason.UNREADABLE, problem)


def _may_be_rounded(value: Any) -> bool:
    """Tells whether a value holds a number that may be an integer beyond 64 bits, of which orjson makes a float."""
    waiting = [value]
    for each in waiting:
        kind = type(each)
        if kind is dict:
            waiting += each.values()
        elif kind is list:
            waiting += each
        elif kind is float and not -_FIRST_ROUNDED < each < _FIRST_ROUNDED:
            return True
    return False


def _may_be_deep(line: bytes) -> bool:
    if line.find(b"{", 1) < 0 and b"[" not in line:  # most rows are objects of texts, and counting is slower
        return False
    return line.count(b"[") + line.count(b"{") > DEEPEST_NESTING


def _encode(values: Any) -> str:
    """Returns JSON text of a row, the same for equal rows."""
    if not isinstance(values, dict):
        return _canonical(_comparable(values))
    columns = {}
    for name, value in values.items():
        if type(value) is str:
            if value:
                columns[name] = value if value[0] not in _TYPED else _comparable(_of_text(value))
        elif isinstance(value, bool | int | float):
            columns[name] = str(_comparable(value)).lower()
        elif value is not None:
            columns[name] = value if _is_comparable(value) else _comparable(value)
    return _canonical(columns)


def _of_text(value: str) -> Any:
    """Returns a column's value as it is where columns have types: not as text."""
    if value[0] in "[{":
        if not _JSON_BEGIN.match(value):  # most other texts: parsing them costs more than most rows
            return value
        try:
            return parse_json(value.encode("utf-8", "surrogatepass"))
        except Dropped:
            return value
    return whole[1] if (whole := _WHOLE_NUMBER.fullmatch(value)) else value


def _is_comparable(value: Any) -> bool:
    """Tells whether `_comparable` would leave a value as it is, in a tenth of its time."""
    waiting = [value]
    for each in waiting:
        kind = type(each)
        if kind is dict:
            if None in each.values():
                return False
            waiting += each.values()
        elif kind is list:
            waiting += each
        elif kind is float and each.is_integer():
            return False
    return True


def _comparable(value: Any) -> Any:
    """Returns a value without its null keys, and with whole numbers as integers, at every depth."""
    if isinstance(value, dict):
        return {str(key): _comparable(part) for key, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_comparable(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_nesting(line: bytes) -> None:
    depth = -1  # the row itself is not nested in anything
    for token in _BRACKETS.finditer(line):
        if token.group(1):
            depth += 1
            if depth > DEEPEST_NESTING:
                raise Dropped(DropReason.UNREADABLE, f"nested deeper than {DEEPEST_NESTING} levels")
        elif token.group() in (b"]", b"}"):
            depth -= 1


def _in_fresh_stack(encode: Callable[[Any], _R], values: Any) -> _R:
    """Encodes values, in a thread of its own where the calls that we are in leave too few for a deep row."""
    try:
        return encode(values)
    except RecursionError:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(encode, values).result()
