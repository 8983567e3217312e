"""The preference loss."""

from typing import Literal

NllScope = Literal["full", "response"]
