"""A row as it was read, before any format: its place in the input and its values."""

import json
from typing import Any, NamedTuple

from oddsmill.schemas.drops import Dropped, DropReason, Origin

# Escaping to ASCII takes two thirds of the time that UTF-8 takes: 5 us for a row of HH.
_canonical = json.JSONEncoder(sort_keys=True, default=repr).encode


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
        """Returns the bytes that stand for this row in the source's fingerprint: equal values have equal bytes."""
        if not isinstance(self.content, bytes):
            return _canonical(self.content).encode()
        try:
            return _canonical(self.values()).encode()
        except Dropped:
            return self.content

    def as_text(self) -> str:
        """Returns the whole row for a person to read; bytes that are not UTF-8 are written as \\xNN."""
        if isinstance(self.content, bytes):
            return self.content.decode("utf-8", "backslashreplace")
        text = json.dumps(self.content, sort_keys=True, ensure_ascii=False, default=repr)
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
    """Returns the value of one JSON text.

    Raises:
      Dropped: The text is unreadable.
    """
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} (0x{line[error.start]:02x}) is not UTF-8"
    except json.JSONDecodeError as error:
        problem = f"broken JSON at character {error.pos}: {error.msg}"
    except (ValueError, RecursionError) as error:
        problem = f"broken JSON: {error}"
    raise Dropped(DropReason.UNREADABLE, problem)
