"""A row with its fields under our names (renamed, nested, or joined of several), and the record of a row format."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats.pairs import Pair
from oddsmill.schemas.chat.tools import kind_of
from oddsmill.schemas.drops import Dropped, DropReason

Names = Mapping[str, str | list[str]]
_MISSING = object()
MESSAGE_SETTINGS = ("roles", "message_keys")  # of the source; they have an effect on every format of messages


class Row:
    """A row as an object, and the source's names of our fields. It remembers which of its columns were looked at.

    A name is a key of the row, or a path (`input.messages`). A path through a list gives the values of its members:
    `answers.text` is the list of the answers' texts, and `answers.0.text` the first of them. A list of names joins
    several fields: texts are joined with a blank line between them, values become a list.
    """

    __slots__ = ("_looked_at", "names", "values")

    def __init__(self, values: Mapping[str, Any], names: Names):
        self.values, self.names = values, names
        self._looked_at: set[str] = set()

    def count_not_read(self, counts: Counter[str]) -> None:
        """Counts one more for each column that holds something (not null, nor empty) and that was not looked at."""
        if len(self._looked_at) < len(self.values):  # in most sets there is no other column
            for column, value in self.values.items():
                if column not in self._looked_at and _holds_something(value):
                    counts[column if column.isprintable() else repr(column)[1:-1]] += 1  # UTF-8 must hold it

    def whole(self) -> dict[str, Any]:
        """Returns all columns, which are then all looked at."""
        self._looked_at.update(self.values)
        return dict(self.values)

    def look_at(self, columns: Iterable[str]) -> None:
        """Remembers that some columns were looked at, if they are there."""
        self._looked_at.update(column for column in columns if column in self.values)

    def has(self, field: str) -> bool:
        """Returns whether all that the field is made of is there and not null."""
        names = self.names.get(field, field)
        if isinstance(names, str):
            return self._find(names) is not None
        return all(self._find(name) is not None for name in names)

    def value(self, field: str, *, instead: tuple[str, ...] = ()) -> Any:
        """Returns the value of a field as it is.

        Args:
          instead: the source's names to try where the field is not mapped and not there.

        Raises:
          Dropped: it is not there.
        """
        names = self.names.get(field)
        if isinstance(names, list):
            return self.text(field)
        if names is None:
            is_there = not instead or field in self.values
            names = field if is_there else next((name for name in instead if name in self.values), field)
        return self._get(names)

    def free(self, names: Sequence[str]) -> tuple[str, ...]:
        """Returns those of some columns that are there, and that stand for no field by the settings."""
        there = tuple(name for name in names if name in self.values)
        if not there:
            return there
        taken = {each for of in self.names.values() for each in ([of] if isinstance(of, str) else of)}
        return tuple(name for name in there if name not in taken)

    def column(self, name: str) -> Any:
        """Returns what the source's column or path holds; null where it is not there."""
        return self._find(name)

    def text(self, field: str) -> str:
        """Returns the text of a field.

        Raises:
          Dropped: it is not there, or not a string that can be encoded.
        """
        names = self.names.get(field, field)
        if isinstance(names, str):
            return _check_text(names, self._get(names))
        if all(self._find(name) is None for name in names):
            raise Dropped(DropReason.MISSING_FIELD, f"no field {' or '.join(map(repr, names))}")
        parts = [_flatten(name, self._find(name)) for name in names]
        return "\n\n".join(part for part in parts if part.strip())

    def items(self, field: str) -> list[Any]:
        """Returns the values of a field that is a list, or of the several fields that stand for it.

        Raises:
          Dropped: one is not there, or the field is not a list.
        """
        names = self.names.get(field, field)
        if isinstance(names, list):
            return [self._get(name) for name in names]
        value = self._get(names)
        if isinstance(value, str) and value.lstrip().startswith("["):  # a table of texts holds its lists as JSON
            with suppress(ValueError, RecursionError):
                value = json.loads(value)
        if not isinstance(value, list):
            raise Dropped(DropReason.WRONG_TYPE, f"field {names!r} is {kind_of(value)}, not a list")
        return value

    def _get(self, name: str) -> Any:
        value = self._find(name, _MISSING)
        if value is _MISSING:
            raise Dropped(DropReason.MISSING_FIELD, f"no field {name!r}")
        return value

    def _find(self, name: str, missing: Any = None) -> Any:
        """Finds a value by its name; a key that is spelt like the whole name wins over a path."""
        if name in self.values:
            self._looked_at.add(name)
            return self.values[name]
        first, *path = name.split(".") if "." in name else (name,)
        if first not in self.values:
            return missing
        self._looked_at.add(first)
        return _follow(self.values[first], path, missing)


class RowFormat(NamedTuple):
    """A row format: how its rows become pairs, and which settings have an effect on that.

    Attributes:
      read: makes the pairs of a row, or raises `Dropped`.
      settings: the settings of the source that have an effect on the format, beside `fields`.
      has_scores: rows may hold `score_chosen` and `score_rejected`, which must agree with the pair.
      is_own: says of a row that reads whether it is of this format, and not of a later one that reads it too.
    """

    read: Callable[[Row, SourceConfig], Sequence[Pair]]
    settings: tuple[str, ...] = ("margin",)
    has_scores: bool = True
    is_own: Callable[[Row], bool] = lambda _: True


def _holds_something(value: Any) -> bool:
    """Tells whether a value, or one inside of it, is neither null nor empty: Arrow fills objects up with nulls."""
    values = [value]
    while values:  # no recursion: a row may be nested as deep as Python's stack
        value = values.pop()
        if isinstance(value, Mapping):
            values += value.values()
        elif isinstance(value, list):
            values += value
        elif value or value == 0:
            return True
    return False


def check_encodable(name: str, text: str) -> str:
    """Returns the text, once it is known that UTF-8 can hold it.

    Raises:
      Dropped: it holds a lone surrogate.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        problem = f"field {name!r}: lone surrogate at character {error.start}"
        raise Dropped(DropReason.UNREADABLE, problem) from None
    return text


def _follow(value: Any, path: Sequence[str], missing: Any) -> Any:
    """Follows a path into a value. A member of a list that does not have it counts as null, unless all lack it.

    A text on the way that is JSON of an object or a list, as in a table of texts, is followed as that.
    """
    for at, key in enumerate(path):
        if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
            with suppress(ValueError, RecursionError):
                value = json.loads(value)
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal():
            if int(key) >= len(value):
                return missing
            value = value[int(key)]
        elif isinstance(value, list):
            found = [_follow(member, path[at:], missing) for member in value]
            if found and all(each is missing for each in found):
                return missing
            return [None if each is missing else each for each in found]
        else:
            return missing
    return value


def _check_text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return check_encodable(name, value)
    if isinstance(value, bytes):  # of a table; those that are UTF-8 were read as a text
        raise Dropped(DropReason.UNREADABLE, f"field {name!r} holds bytes that are not UTF-8")
    raise Dropped(DropReason.WRONG_TYPE, f"field {name!r} is {kind_of(value)}, not a string")


def _flatten(name: str, value: Any) -> str:
    """Returns a part of a joined text: a string, null as an empty one, or a list of these, a line each."""
    if value is None:
        return ""
    if isinstance(value, list):
        return "\n".join(_flatten(name, part) for part in value)
    return _check_text(name, value)
