"""Alarms watch the curves for what a person would stop a run for, and tell it once."""

from collections.abc import Iterator, Mapping
from typing import Any

from oddsmill.train.loss.pairs import PreferenceLoss, token_logp_names

SMOOTHING_STEPS = 20  # a batch's mean log-probabilities are noisy: those of about so many steps are averaged
FALLING_STEPS = 100  # both sides below their best by more than the margin, for so many steps on end
FALLING_MARGIN = 0.1  # nats a token


class Alarms:
    """Watches every step and every evaluation.

    Args:
      loss: gives the ranges of healthy evaluations.
      fine_tuning: false for a model from random weights, which begins, and may stay, outside those ranges.

    Attributes:
      count: alarms so far.
    """

    def __init__(self, loss: PreferenceLoss, *, fine_tuning: bool):
        self._healthy = loss.healthy if fine_tuning else ()
        self._token_logps = token_logp_names(loss)
        self.count = 0
        self._smooth: list[float] = []  # chosen, rejected; log-probability a token
        self._best: list[float] = []
        self._fallen_steps = 0
        self._outside: list[str] = []

    def add_step(self, step: int, values: Mapping[str, float]) -> Iterator[str]:
        """Takes in the metrics of a training step; yields a line where there is a reason to look."""
        now = [values[name] for name in self._token_logps]
        self._smooth = [old + (new - old) / SMOOTHING_STEPS for old, new in zip(self._smooth or now, now, strict=True)]
        if step < SMOOTHING_STEPS:
            return
        self._best = [max(pair) for pair in zip(self._best or self._smooth, self._smooth, strict=True)]
        falls = [best - value for best, value in zip(self._best, self._smooth, strict=True)]
        self._fallen_steps = self._fallen_steps + 1 if min(falls) > FALLING_MARGIN else 0
        if self._fallen_steps == FALLING_STEPS:
            self.count += 1
            yield (
                f"step {step}: for {FALLING_STEPS} steps both log-probabilities have been below their best, chosen by "
                f"{falls[0]:.2f} and rejected by {falls[1]:.2f} nats a token. The model unlearns the good answers too: "
                "a lower learning rate, or a lower beta, gives the NLL term its weight back"
            )

    def add_evaluation(self, step: int, values: Mapping[str, float]) -> Iterator[str]:
        """Takes in an evaluation; yields a line for each metric that has left its band since the last one."""
        outside = []
        for band in self._healthy:
            value = values[band.metric]
            if band.low <= value <= band.high:
                continue
            outside.append(band.metric)
            if band.metric not in self._outside:
                self.count += 1
                low = value < band.low
                yield (
                    f"step {step}: {band.metric} is {value:.3f}, {'below' if low else 'above'} "
                    f"{band.low if low else band.high}: {band.below if low else band.above}"
                )
        self._outside = outside

    def notes(self) -> dict[str, Any]:
        """Returns JSON that a checkpoint keeps, so that a resumed run gives the same alarms."""
        return {
            "count": self.count,
            "smooth": self._smooth,
            "best": self._best,
            "fallen_steps": self._fallen_steps,
            "outside": self._outside,
        }

    def restore(self, notes: Mapping[str, Any]) -> None:
        self.count, self._smooth, self._best = notes["count"], notes["smooth"], notes["best"]
        self._fallen_steps, self._outside = notes["fallen_steps"], notes["outside"]
