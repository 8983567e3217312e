"""Stage one: preference texts -> packed rows of token ids. Imports nothing of JAX."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oddsmill.pipeline.config import PreprocessConfig, SourceConfig
    from oddsmill.pipeline.run import preprocess

__all__ = ["PreprocessConfig", "SourceConfig", "preprocess"]

_HOMES = {"PreprocessConfig": "config", "SourceConfig": "config", "preprocess": "run"}


def __getattr__(name: str) -> Any:
    """Imports what is asked for, and not before: it takes half a second, and the help of a command needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
