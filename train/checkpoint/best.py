"""The best evaluation so far, and early stopping where none has been better for long."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oddsmill.schemas.errors import require

_DEFAULT_METRIC = "loss"


@dataclass
class Best:
    """Follows the rules of transformers' `load_best_model_at_end` and of its early stopping.

    Attributes:
      metric: key of the evaluations' metrics, with `eval/`.
      patience: evaluations on end without improvement that end the run; None where none do.
      data: digest of the rows that the evaluations measure; those of other rows cannot be compared.
      value, step: of the best evaluation; None before the first. Of equal ones the earliest is the best.
      without_improvement: evaluations since the last that was better by more than `threshold`.
    """

    metric: str
    greater_is_better: bool
    patience: int | None = None
    threshold: float = 0.0
    data: str | None = None
    value: float | None = None
    step: int | None = None
    without_improvement: int = 0

    def add(self, step: int, evaluation: Mapping[str, float]) -> bool:
        """Takes in an evaluation; returns whether it is the best so far. One that is not finite never is."""
        value = evaluation[self.metric]
        gain = (value - (self.value or 0.0)) * (1 if self.greater_is_better else -1)
        is_best = math.isfinite(value) and (self.value is None or gain > 0)
        improved = is_best and (self.value is None or gain > self.threshold)
        self.without_improvement = 0 if improved else self.without_improvement + 1
        if is_best:
            self.value, self.step = value, step
        return is_best

    @property
    def patience_is_over(self) -> bool:
        return self.patience is not None and self.without_improvement >= self.patience

    def notes(self) -> dict[str, Any]:
        """Returns JSON that a checkpoint keeps."""
        return {
            "value": self.value, "step": self.step, "without_improvement": self.without_improvement, **self._rules()
        }  # fmt: skip

    def restore(self, notes: Mapping[str, Any], *, saved_steps: Collection[int] | None = None) -> str | None:
        """Goes on from a checkpoint's notes, or begins anew where they cannot be compared with evaluations to come.

        Args:
          saved_steps: one of which must be the best; None where its weights are not needed.

        Returns: the reason to begin anew, for the console; None where it goes on.
        """
        changed = [name for name, value in self._rules().items() if notes.get(name, value) != value]
        if changed:
            return f"the best evaluation so far does not count any more: {' and '.join(changed)} changed"
        self.without_improvement = notes["without_improvement"]
        if saved_steps is not None and notes["step"] not in {None, *saved_steps}:
            return f"the best evaluation so far, of step {notes['step']}, does not count any more: it was not saved"
        self.value, self.step = notes["value"], notes["step"]
        return None

    def _rules(self) -> dict[str, Any]:
        return {"metric": self.metric, "greater_is_better": self.greater_is_better, "eval_data": self.data}


def make_best(
    known_metrics: Sequence[str],
    metric_for_best_model: str | None = None,
    greater_is_better: bool | None = None,
    *,
    patience: int | None = None,
    threshold: float = 0.0,
    data: str | None = None,
) -> Best:
    """Returns the rules that the settings ask for.

    Args:
      known_metrics: names of the metrics of an evaluation, without `eval/`.
      greater_is_better: for that metric; None: unless its name ends with loss.
      patience, threshold, data: as in Best.

    Raises:
      Refused: there is no metric of that name.
    """
    name = (metric_for_best_model or _DEFAULT_METRIC).removeprefix("eval/").removeprefix("eval_")
    require(name in known_metrics, "metric_for_best_model", name, f"there are {', '.join(known_metrics)}")
    greater = not name.endswith("loss") if greater_is_better is None else greater_is_better
    return Best(metric=f"eval/{name}", greater_is_better=greater, patience=patience, threshold=threshold, data=data)
