"""Settings of evaluations, checkpoints and alarms: none without effect is taken."""

import pytest

from oddsmill.schemas.errors import Refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric_for_best_model": "loss"}, "has no effect without --load_best_model_at_end=true or --early_stopping"),
        ({"greater_is_better": False}, "--greater_is_better=False: has no effect without"),
        ({"early_stopping_threshold": 0.1}, "=0.1: has no effect without --early_stopping_patience"),
        ({"load_best_model_at_end": True, "eval_steps": None}, "=True: has no effect without --eval_steps"),
        ({"early_stopping_patience": 1, "eval_steps": None}, "=1: has no effect without --eval_steps"),
        ({"profile_steps": [3]}, "--profile_steps=[3]: give the first and the last"),
        ({"profile_steps": [3, 2]}, "--profile_steps=[3, 2]: give the first and the last"),
        ({"profile_steps": [0, 2]}, "--profile_steps=[0, 2]: give the first and the last"),
        ({"save_steps": 0}, "--save_steps=0: must be positive"),
        ({"save_total_limit": 0}, "--save_total_limit=0: must be positive"),
        ({"max_skipped_steps": -1}, "--max_skipped_steps=-1: must not be negative"),
        ({"early_stopping_patience": 0}, "--early_stopping_patience=0: must be positive"),
    ],
)
def test_settings_that_cannot_be_or_have_no_effect_are_refused_by_name(make, changes, message):
    with pytest.raises(Refused) as refusal:
        make(**{"eval_steps": 10, **changes})
    assert message in str(refusal.value)


def test_the_metric_of_the_best_model_goes_with_stopping_early_alone(make):
    made = make(eval_steps=10, early_stopping_patience=2, metric_for_best_model="loss", greater_is_better=False)
    assert made.metric_for_best_model == "loss"
