"""Alarms: what sets each off, how often, and that a resumed run says the same."""

import json

import numpy as np

from oddsmill.train.loss.orpo import Orpo
from oddsmill.train.loss.simpo import cpo
from oddsmill.train.monitor.alarms import FALLING_STEPS, SMOOTHING_STEPS, Alarms

HEALTHY = {
    "eval/nll_loss": 0.9,
    "eval/rewards/accuracies": 0.65,
    "eval/log_odds_chosen": 0.45,
    "eval/log_odds_ratio": -0.62,
}


def curves(chosen_slope: float, rejected_slope: float, steps: int = 400) -> list[dict[str, float]]:
    """Noisy lines from -1 and -1.2 nats a token."""
    noise = np.random.default_rng(0).normal(0, 0.1, (steps, 2))
    return [
        {"logps/chosen": -1 + chosen_slope * step + a, "logps/rejected": -1.2 + rejected_slope * step + b}
        for step, (a, b) in enumerate(noise)
    ]


def lines(alarms: Alarms, steps, start: int = 1) -> list[str]:
    return [line for number, values in enumerate(steps) for line in alarms.add_step(start + number, values)]


def test_only_both_sides_falling_for_long_is_an_alarm_and_it_is_said_once():
    alarms = Alarms(Orpo(beta=0.1), fine_tuning=True)
    (line,) = lines(alarms, curves(-0.003, -0.004))
    assert "both log-probabilities have been below their best" in line and alarms.count == 1
    # With ORPO the rejected side may fall; noise alone, or a fall that ends, is no alarm either.
    for slopes in ((0.001, -0.004), (-0.004, 0.0), (0.0, 0.0)):
        assert not lines(Alarms(Orpo(beta=0.1), fine_tuning=True), curves(*slopes))
    short = curves(-0.01, -0.01, 50) + curves(0.0, 0.0, 200)
    assert not lines(Alarms(Orpo(beta=0.1), fine_tuning=True), short)


def test_a_second_fall_is_a_second_alarm():
    fall = curves(-0.003, -0.004, 300)
    alarms = Alarms(Orpo(beta=0.1), fine_tuning=True)
    assert len(lines(alarms, fall + curves(0.01, 0.01, 300) + fall)) == 2


def test_a_resumed_run_says_the_same():
    steps = curves(-0.003, -0.004)
    straight = Alarms(Orpo(beta=0.1), fine_tuning=True)
    expected = lines(straight, steps)
    for cut in (SMOOTHING_STEPS // 2, FALLING_STEPS, 250):
        first, second = Alarms(Orpo(beta=0.1), fine_tuning=True), Alarms(Orpo(beta=0.1), fine_tuning=True)
        said = lines(first, steps[:cut])
        second.restore(json.loads(json.dumps(first.notes())))
        assert said + lines(second, steps[cut:], cut + 1) == expected
        assert second.notes() == straight.notes()


def test_an_evaluation_outside_a_band_is_said_when_it_leaves_and_not_again_while_it_is_out():
    alarms = Alarms(Orpo(beta=0.1), fine_tuning=True)
    swapped = {**HEALTHY, "eval/rewards/accuracies": 0.3, "eval/log_odds_chosen": -1.0}
    said = [list(alarms.add_evaluation(step, values)) for step, values in
            enumerate([HEALTHY, swapped, swapped, HEALTHY, {**HEALTHY, "eval/nll_loss": 5.0}])]  # fmt: skip
    assert [len(each) for each in said] == [0, 2, 0, 0, 1]
    assert (
        "eval/rewards/accuracies is 0.300, below 0.45: rejected answers win: are the two sides swapped?" in said[1][0]
    )
    assert "eval/nll_loss is 5.000, above 4.0" in said[4][0]
    assert alarms.count == 3


def test_the_bands_are_for_fine_tuning():
    assert not list(Alarms(Orpo(beta=0.1), fine_tuning=False).add_evaluation(1, {**HEALTHY, "eval/nll_loss": 10.0}))


def test_a_loss_that_reads_sums_is_watched_by_the_means_of_a_token():
    """Sums swing with the lengths of the answers: by themselves they are no reason for an alarm."""
    loss = cpo(beta=0.1, nll_weight=1.0, label_smoothing=0.0)
    falling, level = curves(-0.003, -0.004), curves(0.0, 0.0)

    def steps(sums, means):
        return [
            sum_of | {f"token_{name}": value for name, value in mean.items()}
            for sum_of, mean in zip(sums, means, strict=True)
        ]

    assert len(lines(Alarms(loss, fine_tuning=True), steps(level, falling))) == 1
    assert not lines(Alarms(loss, fine_tuning=True), steps(falling, level))
