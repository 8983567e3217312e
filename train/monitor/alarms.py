"""Watches the curves for what a person would stop a run for, and says so once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SMOOTHING_STEPS = 20  # a batch's mean log-probabilities are noisy: those of about so many steps are averaged
FALLING_STEPS = 100  # both sides below their best by more than the margin, for so many steps on end
FALLING_MARGIN = 0.1  # nats a token


@dataclass(frozen=True)
class Band:
    """Where the metric of a healthy fine-tuning lies in evaluations, and what it means when it does not."""

    metric: str
    low: float
    high: float
    below: str
    above: str


# Wide round what public runs show: Mistral-7B on a mix of preference sets with beta 0.1 evaluates to NLL 0.88-0.94,
# log_odds_ratio -0.63 to -0.60, log_odds_chosen 0.39-0.50, accuracy 0.63-0.66 (card of
# mistral-orpo-mix-b0.1-l2048-pl1792-lr5e-6-inverse-sqrt); its third epoch, at NLL 1.17, overfits.
BANDS = (
    Band("eval/nll_loss", 0.2, 4.0, "held-out text is memorised: is it in the training data?",
         "the model has lost, or never had, the language of the data: is the tokenizer its own, the rate too high?"),
    Band("eval/rewards/accuracies", 0.45, 0.97, "rejected answers win: are the two sides swapped?",
         "the sides are told apart by something trivial, such as their length or an end of turn"),
    Band("eval/log_odds_chosen", -0.5, 4.0, "rejected answers win: are the two sides swapped?",
         "the sides are driven far apart: a lower beta or learning rate keeps the language whole"),
    Band("eval/log_odds_ratio", -1.5, -0.02, "the odds-ratio loss is far above that of a coin (0.69)",
         "nothing is left to learn from the pairs"),
)  # fmt: skip


class Alarms:
    """Sees every step and every evaluation.

    The bands hold for fine-tuning: a model from random weights begins, and may stay, outside them.

    Attributes:
      count: alarms so far.
    """

    def __init__(self, *, fine_tuning: bool):
        self._fine_tuning = fine_tuning
        self.count = 0
        self._smooth: list[float] = []  # chosen, rejected; log-probability a token
        self._best: list[float] = []
        self._fallen_steps = 0
        self._outside: list[str] = []

    def add_step(self, step: int, values: Mapping[str, float]) -> Iterator[str]:
        """Takes in the metrics of a training step; yields a line where there is a reason to look."""
        now = [values["logps/chosen"], values["logps/rejected"]]
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
        for band in BANDS if self._fine_tuning else ():
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
        """JSON that a checkpoint keeps, so that a resumed run says the same."""
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
