"""The attacks by name. Each is imported only when it is asked for: some need JAX, some Beam."""

import importlib
from typing import NamedTuple

from tests.campaign.harness import Attack


class Entry(NamedTuple):
    """The place of an attack, and how many of its cases are tried.

    Attributes:
      place: its module of this folder, and its name there where that is not ATTACK.
      count: by `make campaign`.
      slow: by `make test-slow`, which has a minute or two for all attacks together.
      quick: by `make test`, which has some seconds for all together.
    """

    place: str
    count: int
    slow: int = 0
    quick: int = 0


ATTACKS = {
    "rows": Entry("rows", count=10_000, slow=100, quick=8),
    "runs": Entry("whole_runs", count=300, slow=4),
    "kills": Entry("kills", count=100, slow=2),
    "manifests": Entry("altered:MANIFESTS", count=10_000, slow=60),
    "records": Entry("records", count=1000, slow=30, quick=2),
    "bytes": Entry("altered:BYTES", count=20_000, slow=60),
    "model-folders": Entry("model_folders", count=2000, slow=40),
    "train-kills": Entry("train_kills", count=30),
    "train-kills-of-two": Entry("train_kills_of_two", count=6),
    "two-starts": Entry("two_starts", count=30),
    "train-bytes": Entry("train_bytes", count=600, slow=4),
}


def load_attack(name: str) -> Attack:
    """Imports the module of an attack and returns it."""
    module, _, attribute = ATTACKS[name].place.partition(":")
    attack: Attack = getattr(importlib.import_module(f"tests.campaign.{module}"), attribute or "ATTACK")
    return attack
