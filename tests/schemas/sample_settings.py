"""Settings of every kind, which the tests of reading and checking share."""

from typing import Literal

from oddsmill.schemas.errors import require
from oddsmill.schemas.settings import setting, settings


@settings(group="source.")
class Inner:
    path: str | list[str] = setting("Where it is.")
    fields: dict[str, str] = setting("What it is called.", default_factory=dict)
    margin: float = setting("How far apart.", default=0.5, at_least=0, below=1, may_change=True)


@settings()
class Limits:
    """Groups come first."""

    max_length: int = setting("The longest.", default=1024, above=0)
    seed: int | None = setting("The seed.", default=None, at_least=0, at_most=9)

    def check(self) -> None:
        require(self.max_length != 13, "max_length", self.max_length, "brings bad luck")


@settings()
class Outer(Limits):
    """All of it."""

    source: Inner = setting("The rows.")
    output: str = setting("Where it goes.", default="out", may_change=True)
    scope: Literal["full", "response"] = setting("How much.", default="full")
    overwrite: bool = setting("Replaced.", default=False)
    depth: int = setting("How deep.", default=0, needs=("overwrite", "seed"))
    width: int = setting("How wide.", default=0, only_with={"scope": ("response",)})
    height: int = setting("How high.", default=0, at_least=0, only_with={"seed": (None,)})

    def check(self) -> None:
        require(self.output != "nowhere", "output", self.output, "is no place")
