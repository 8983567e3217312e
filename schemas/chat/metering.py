"""A meter of what one rendering of a chat template costs, so that none takes the time or the memory of the machine.

A template is a program of a stranger, and so are a row's messages. Costs are counted in characters, written or copied,
and do not depend on the machine: whether a row is dropped does not either. A clock ends what the count does not see.
Values stay light: no text or container that a template makes is larger, written out, than `_LIGHT` or the messages.
"""

import threading
import time
from collections.abc import Callable, ItemsView, Iterator, KeysView, Sized, ValuesView
from contextlib import contextmanager
from typing import Any

from oddsmill.schemas.errors import Refused

MAX_TEMPLATE = 1 << 19  # characters; the longest of known models has 30,000
MAX_WIDTH = 100_000  # of padding, in a format, by a filter, of a range
MAX_BITS = 4096  # of a whole number
_BUDGET = 1 << 26  # characters of a rendering, half a second to some seconds
_LIGHT = 1 << 22  # characters and members of a value
_MORE = 64  # what messages of a size may cost beyond that, times their size
ITEM, _CALL = 64, 512  # what a turn of a loop costs, and a call of a macro
_MEMBER = 32  # what a member of a container costs where it is looked at
_SECONDS = 20.0
_CHECKED_EVERY = 256  # items
_SCALARS = frozenset((bool, int, float, type(None)))
VIEWS = (KeysView, ValuesView, ItemsView)  # of a dictionary


class TooCostly(Exception):
    """A rendering is beyond its bounds."""


class _Meter(threading.local):
    """The costs that are left to the rendering of this thread.

    Attributes:
      left: characters.
      light: of one value.
      ends: the time at which the clock ends it.
      inputs: what is rendered, until its size has been allowed for.
    """

    left: int = 0
    light: int = 0
    ends: float = 0.0
    inputs: Any = None


_meter = _Meter()


@contextmanager
def metered(inputs: Any) -> Iterator[None]:
    """Bounds what the body renders; `inputs` are the messages and variables, which may be large themselves."""
    _meter.left, _meter.light, _meter.ends, _meter.inputs = _BUDGET, _LIGHT, time.monotonic() + _SECONDS, inputs
    try:
        yield
    finally:
        _meter.left = _meter.light = 0
        _meter.inputs = None


def charge(cost: int) -> None:
    """Takes a cost off what is left.

    Raises:
      TooCostly: nothing is left.
    """
    _meter.left -= cost
    if _meter.left < 0 and not (_allow_for_inputs() and _meter.left >= 0):
        raise TooCostly(f"it writes or copies more than {_BUDGET:,} characters")


def longest_content(copies: int) -> int:
    """Returns the characters that each of the messages' contents may have, so that no bound is reached.

    Args:
      copies: how often a content was written or copied, at most; the other costs have been charged.
    """
    return (_LIGHT - (_BUDGET - _meter.left)) // max(copies, 1)


def check_clock() -> None:
    """Ends a rendering that takes too long.

    Raises:
      Refused: as said. It is no drop, since another machine might have come to its end.
    """
    if time.monotonic() > _meter.ends:
        raise Refused(f"the chat template did not come to its end on the messages of a row within {_SECONDS:g} seconds")


def _allow_for_inputs() -> bool:
    """Allows for the size of what is rendered, once; returns whether there was more to allow."""
    if _meter.inputs is None:
        return False
    size = _measure(_meter.inputs, 1 << 40)
    _meter.inputs = None
    _meter.left += _MORE * size
    _meter.light += 8 * size
    return True


def check_size(size: int) -> None:
    """Refuses a value before it is made.

    Raises:
      TooCostly: it would be too large.
    """
    if size > _meter.light and not (_allow_for_inputs() and size <= _meter.light):
        raise TooCostly(f"it makes a value of {size:,} characters")


def light(value: Any) -> Any:
    """Returns a value, once it is sure that it is small, written out.

    Raises:
      TooCostly: it is not.
    """
    kind = type(value)
    if kind is str:
        size = len(value)
        check_size(size)
        charge(size >> 2)
    elif kind is int:
        if value.bit_length() > MAX_BITS:
            raise TooCostly(f"it makes a number of more than {MAX_BITS:,} bits")
    elif kind not in _SCALARS:
        charge(measure(value))
    return value


def measure(value: Any) -> int:
    """Returns the size of a value written out, in characters.

    Raises:
      TooCostly: it is too large.
    """
    size = _measure(value, _meter.light)
    if size > _meter.light and _allow_for_inputs():
        size = _measure(value, _meter.light)
    check_size(size)
    return size


def _measure(value: Any, most: int) -> int:
    """Returns the size of a value, or a part of it that is above `most`: parts may stand in it many times over."""
    size, stack = 0, [value]
    while stack:
        item = stack.pop()
        size += _MEMBER
        kind = type(item)
        if kind is str:
            size += len(item)
        elif kind is dict:
            stack.extend(item)
            stack.extend(item.values())
        elif kind is list or kind is tuple or isinstance(item, (list, tuple, *VIEWS)):
            stack.extend(item)
        elif kind not in _SCALARS and isinstance(item, Sized):  # a range
            size += len(item)
        if size + _MEMBER * len(stack) > most:
            return size + _MEMBER * len(stack)
    return size


def depth(value: Any) -> int:
    """Returns how deep the objects and lists of a value are inside each other; it has been measured before."""
    level, number = [value], 0
    while level:
        number += 1
        parts = [
            item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list, tuple))
        ]
        level = [item for part in parts for item in part]
    return number


class _Counted:
    """The items of a loop, each of which costs."""

    def __init__(self, items: Any, cost: int):
        self._items, self._cost = items, cost

    def __iter__(self) -> Iterator[Any]:
        for number, item in enumerate(self._items):
            charge(self._cost)
            if number % _CHECKED_EVERY == 0:
                check_clock()
            yield item


class _CountedOfLength(_Counted):
    def __len__(self) -> int:
        return len(self._items)


def counted(items: Any, text: int) -> Any:
    """Returns what a loop goes through, so that it cannot go on for ever.

    Args:
      text: the characters that one turn writes of the template itself.
    """
    cost = ITEM + text
    if isinstance(items, (list, tuple, dict)) and len(items) < _CHECKED_EVERY:
        charge(cost * len(items))
        check_clock()
        return items
    if isinstance(items, Sized):
        return _CountedOfLength(items, cost)
    # What is no sequence is refused by Jinja in its own words, an undefined variable among them.
    return _Counted(items, cost) if hasattr(items, "__next__") else items


def listed(items: Any) -> Any:
    """Returns the items of an iterator as a list that is light; other values as they are.

    Raises:
      TooCostly: they are too many.
    """
    if not hasattr(items, "__next__"):
        return items
    found, size = [], 0
    for item in _Counted(items, ITEM):
        size += len(item) if isinstance(item, (str, bytes)) else measure(item)
        check_size(size)
        found.append(item)
    return found


def counted_call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a macro of the template."""
    charge(_CALL)
    check_clock()
    return light(function(*args, **kwargs))


def written(value: Any) -> str:
    """Returns the text that an expression writes."""
    text = value if type(value) is str else str(value)
    _meter.left -= len(text)
    if _meter.left < 0:
        charge(0)
    return text
