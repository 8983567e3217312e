"""Which checkpoints of a run stay on disk."""

from collections.abc import Sequence
from typing import Any


class NewestAndBest:
    """Orbax's policy for which checkpoints stay: `total`, the newest and the best among them.

    As in transformers the newest and the best both stay, even where `total` is 1.
    """

    def __init__(self, total: int):
        self._total = total
        self.best_step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        best = {self.best_step} & set(steps)
        others = sorted(set(steps) - best, reverse=True)
        kept = best | set(others[: max(self._total - len(best), max(steps) not in best)])
        return [step in kept for step in steps]
