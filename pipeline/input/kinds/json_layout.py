"""The layout of a JSON text, told by its begin: a row a line, an array, objects over lines, or a list in an object."""

import enum
import json
import re
from dataclasses import dataclass, field

from oddsmill.pipeline.input.kinds.streams import BYTE_ORDER_MARK

# How much of a file is looked at: a begin that holds the first row of most files.
HEAD_BYTES = 64 << 10
# The names under which one object holds the list of its rows, and fields that rows have. The list of any other name
# is one of rows where its members have such a field.
ROW_LISTS = frozenset(
    "data rows examples samples instances items records entries dataset pairs train training test validation valid "
    "val eval evaluation dev".split()
)
ROW_FIELDS = frozenset(
    "prompt chosen rejected question instruction input output messages conversations conversation completions "
    "responses".split()
)
_MESSAGE_FIELDS = frozenset(("role", "from"))
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{},:]|[^\s"\[\]{},:]+|"', re.DOTALL)
_COLUMN = re.compile(rb'"(?:prompt|chosen|rejected)"\s*:\s*(?:\{\s*"0"\s*:|\[\s*")')
_CLOSES = {b"]": b"[", b"}": b"{"}


class Layout(enum.Enum):
    """How rows lie in a JSON text."""

    LINES = enum.auto()
    ARRAY = enum.auto()
    OBJECTS = enum.auto()
    WRAPPED = enum.auto()


@dataclass
class Outline:
    """The first object of a text, as far as it is seen.

    Attributes:
      keys: its keys.
      lists: its values that are lists of objects: where each begins, and the keys of its first object.
      ends: where its lists end that do.
      end: where it ends itself; None where it goes on.
    """

    keys: list[str] = field(default_factory=list)
    lists: dict[str, tuple[int, set[str]]] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    end: int | None = None

    @property
    def row_lists(self) -> list[str]:
        """The names of the lists whose members look like rows: those of a known name, else all."""
        rows = [
            name
            for name, (_, keys) in self.lists.items()
            if keys & ROW_FIELDS or (name.lower() in ROW_LISTS and not keys & _MESSAGE_FIELDS)
        ]
        return [name for name in rows if name.lower() in ROW_LISTS] or rows


def outline(text: bytes) -> Outline | None:
    """Follows the first object of a text; None where it is no JSON, as far as brackets and strings tell."""
    found, opened = Outline(), list[bytes]()
    previous, key, start, is_first = b"", "", 0, False
    for token in _TOKEN.finditer(text):
        part = token.group()
        if part in (b"{", b"["):
            if opened and previous not in ((b":",) if opened[-1] == b"{" else (b"[", b",")):
                return None
            if len(opened) == 1:
                start = token.start()
            if opened == [b"{", b"["] and previous == b"[" and part == b"{":
                found.lists[key] = (start, set())
                is_first = True
            opened.append(part)
        elif part in _CLOSES:
            if not opened or opened.pop() != _CLOSES[part]:
                return None
            is_first = is_first and len(opened) > 2
            if len(opened) == 1:
                found.ends[key] = token.end()
            if not opened:
                found.end = token.end()
                break
        elif part == b'"':  # a string that the text does not hold whole
            break
        elif not opened or b"\n" in part:
            return None
        elif part[:1] == b'"' and previous in (b"{", b","):
            if opened == [b"{"]:
                key = _name(part)
                found.keys.append(key)
            elif is_first and len(opened) == 3:
                found.lists[key][1].add(_name(part))
        previous = part
    return found


def layout_of(text: bytes, *, has_lines: bool) -> Layout:
    """Tells the layout of a text that begins with a bracket.

    Args:
      text: the begin of a file.
      has_lines: its name says that it holds a row a line.
    """
    text = text.removeprefix(BYTE_ORDER_MARK).lstrip()
    return _array_or_lines(text, has_lines) if text[:1] == b"[" else _objects_or_lines(text)


def _array_or_lines(text: bytes, has_lines: bool) -> Layout:
    prefix = b'{"":'
    found = outline(prefix + text)
    if found is None:
        return Layout.LINES if has_lines else Layout.ARRAY
    end = found.ends.get("")
    if end is not None and (prefix + text)[end:].strip():
        return Layout.LINES
    if not has_lines:
        return Layout.ARRAY
    # A file of lines may begin with a row that is a list: of anything, or of messages.
    is_array = "" in found.lists and (end is not None or not found.lists[""][1] & _MESSAGE_FIELDS)
    return Layout.ARRAY if is_array else Layout.LINES


def _objects_or_lines(text: bytes) -> Layout:
    found = outline(text)
    if found is None:
        return Layout.LINES
    first, rest = text[: found.end], text[found.end :] if found.end else b""
    if not rest.strip() and found.row_lists and not ROW_FIELDS & set(found.keys):
        return Layout.WRAPPED
    if found.end is None:
        return Layout.OBJECTS if b"\n" in first.strip() else Layout.LINES
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return Layout.LINES
    return Layout.OBJECTS if b"\n" in first or rest.lstrip(b" \t\r")[:1] in (b"{", b",") else Layout.LINES


def holds_columns(text: bytes) -> bool:
    """Tells whether a text is one object of columns, each a list or an object by row number, as pandas writes it."""
    found = outline(text)
    if (
        not found
        or len({"prompt", "chosen", "rejected"} & set(found.keys)) < 2
        or text[found.end or len(text) :].strip()
    ):
        return False
    return len(_COLUMN.findall(text[: found.end])) > 1


def _name(text: bytes) -> str:
    return text[1:-1].decode("utf-8", "replace")
