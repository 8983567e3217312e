"""Best model and early stopping: transformers' rules."""

import json
import math

import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.train.checkpoint.best import make_best
from oddsmill.train.config.loss import LossSettings
from oddsmill.train.loss.choice import preference_loss
from oddsmill.train.loss.pairs import metric_names


def best_of(metric_for_best_model=None, **rules):
    return make_best(metric_names(preference_loss(LossSettings())), metric_for_best_model, **rules)


def after(best, values):
    """(is the best, patience is over) of each evaluation in turn."""
    found = []
    for number, value in enumerate(values):
        found.append((best.add(10 * (number + 1), {best.metric: value}), best.patience_is_over))
    return found


def test_a_loss_is_better_when_lower_and_of_equal_ones_the_first_is_the_best():
    best = best_of()
    assert best.metric == "eval/loss"
    assert [is_best for is_best, _ in after(best, [3.0, 2.0, 2.0, 2.5, 1.0, 1.5])] == [1, 1, 0, 0, 1, 0]
    assert (best.step, best.value) == (50, 1.0)


def test_other_metrics_are_better_when_greater_unless_told_otherwise():
    assert [is_best for is_best, _ in after(best_of("rewards/accuracies"), [0.5, 0.6, 0.4])] == [1, 1, 0]
    lower = best_of("rewards/accuracies", greater_is_better=False)
    assert [is_best for is_best, _ in after(lower, [0.5, 0.6, 0.4])] == [1, 0, 1]
    # transformers writes eval_loss
    assert best_of("eval_nll_loss").metric == "eval/nll_loss"


def test_patience_counts_evaluations_on_end_without_a_gain_above_the_threshold():
    best = best_of(patience=2, threshold=0.1)
    # 0.95 is the best of the three, but by less than the threshold: it does not win patience back.
    assert after(best, [2.0, 1.0, 0.95, 0.94]) == [(True, False), (True, False), (True, False), (True, True)]


def test_an_evaluation_that_is_not_finite_is_never_the_best():
    best = best_of(patience=3)
    assert after(best, [math.nan, 2.0, -math.inf]) == [(False, False), (True, False), (False, False)]
    assert best.step == 20


def test_what_a_checkpoint_keeps_gives_the_same_rest():
    values = [2.0, 1.0, 1.5, 1.2, 0.5]
    straight, first = (best_of(patience=3) for _ in range(2))
    found = after(straight, values)
    after(first, values[:2])
    resumed = best_of(patience=3)
    assert resumed.restore(json.loads(json.dumps(first.notes()))) is None
    assert after(resumed, values[2:]) == found[2:]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"metric_for_best_model": "rewards/accuracies"}, "metric and greater_is_better changed"),
        ({"greater_is_better": True}, "greater_is_better changed"),
    ],
)
def test_a_best_by_other_rules_does_not_count_any_more(changes, told):
    """Of accuracies none is ever above a loss of 2."""
    first = best_of(patience=3)
    after(first, [2.0, 3.0])
    resumed = best_of(patience=3, **changes)
    assert resumed.restore(first.notes()).endswith(told)
    assert (resumed.value, resumed.step, resumed.without_improvement) == (None, None, 0)


def test_a_best_of_other_rows_or_without_weights_does_not_count_any_more():
    first, moved, loaded = (best_of(patience=3) for _ in range(3))
    first.data, moved.data, loaded.data = "a", "b", "a"
    after(first, [2.0, 3.0])
    assert moved.restore(first.notes()).endswith("eval_data changed")
    assert loaded.restore(first.notes(), saved_steps=[20]).endswith(
        "of step 10, does not count any more: it was not saved"
    )
    assert (loaded.step, loaded.without_improvement) == (None, 1)
    assert loaded.restore(first.notes(), saved_steps=[10, 20]) is None
    assert loaded.step == 10


def test_a_metric_that_no_evaluation_has_is_refused():
    with pytest.raises(Refused, match="--metric_for_best_model=accuracy: there are loss, nll_loss"):
        best_of("accuracy")
