"""The formats `module:function`: a function of the user's makes a pair of a row."""

import importlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats import messages, triple
from oddsmill.pipeline.formats.pairs import Pair
from oddsmill.pipeline.formats.rows import Row
from oddsmill.schemas.chat.tools import kind_of
from oddsmill.schemas.drops import Dropped, DropReason
from oddsmill.schemas.errors import Refused

_SIDES = ("prompt", "chosen", "rejected")


@cache
def load_function(name: str) -> Callable[[dict[str, Any]], Any]:
    """Imports the user's function of a format `module:function`.

    Raises:
      Refused: there is none.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise Refused(
            f"--source.format={name}: {error}; give module:function of a module that Python finds here and on workers"
        ) from error
    if not callable(found):
        raise Refused(f"--source.format={name}: {function} is not a function")
    return found


def call(name: str, values: dict[str, Any]) -> Row:
    """Makes another row of a row by the user's function, which gives a mapping, three texts, or None.

    Raises:
      Dropped: the function raised, gave None, or gave something that is no row.
    """
    function = load_function(name)
    try:
        made = function(values)
    except Dropped:
        raise
    except Exception as error:
        raise Dropped(DropReason.USER_FUNCTION, f"{type(error).__name__}: {error}") from error
    if made is None:
        raise Dropped(DropReason.USER_FUNCTION, f"{name} gave None")
    if isinstance(made, tuple) and len(made) == 3:
        made = dict(zip(_SIDES, made, strict=True))
    if not isinstance(made, dict):
        raise Dropped(DropReason.WRONG_TYPE, f"{name} gave {kind_of(made)}, not a mapping, three values or None")
    return Row(made, {})


def read(row: Row, source: SourceConfig) -> Sequence[Pair]:
    """Makes the pair of a row that the user's function made: of three texts, or of messages."""
    is_text = all(isinstance(row.values.get(field), str) for field in _SIDES)
    return (triple if is_text else messages).read(row, source)
