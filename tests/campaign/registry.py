"""The attacks by name. Each is imported only when it is asked for: some need JAX, some Beam."""

import importlib
from typing import NamedTuple

from tests.campaign.harness import Attack


class Entry(NamedTuple):
    """The module that has an attack as `ATTACK`, and how many of its cases are tried.

    Attributes:
      count: by `make campaign`.
      slow: by `make test-slow`, which has a minute or two for all attacks together.
      quick: by `make test`, which has some seconds for all together.
    """

    module: str
    count: int
    slow: int = 0
    quick: int = 0


ATTACKS = {
    "rows": Entry("tests.campaign.rows", count=10_000, slow=150, quick=20),
    "kills": Entry("tests.campaign.kills", count=100),
    "model-folders": Entry("tests.campaign.model_folders", count=2000, slow=60),
    "train-kills": Entry("tests.campaign.train_kills", count=30),
    "train-kills-of-two": Entry("tests.campaign.train_kills_of_two", count=6),
    "train-bytes": Entry("tests.campaign.train_bytes", count=1000, slow=20),
}


def load_attack(name: str) -> Attack:
    """Imports the module of an attack and returns it."""
    attack: Attack = importlib.import_module(ATTACKS[name].module).ATTACK
    return attack
