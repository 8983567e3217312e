"""Settings of the schedule, the optimizer and the batch: ranges, and what only some of them read."""

import pytest

from oddsmill.schemas.errors import Refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_batch_size": 0}, "--total_batch_size=0: must be positive"),
        ({"adam_beta2": 1.0}, "--adam_beta2=1.0: must be at least 0 and less than 1"),
        ({"max_steps": 5, "warmup_steps": 5}, "--warmup_steps=5: must be less than max_steps (5)"),
        ({"learning_rate": 1e-6, "learning_rate_end": 1e-5}, "--learning_rate_end=1e-05: must not be above"),
        ({"seed": -1}, "--seed=-1: must be between 0 and 4294967295"),
        ({"seed": 2**32}, "--seed=4294967296: must be between 0 and 4294967295"),
        ({"max_grad_norm": 0.0}, "--max_grad_norm=0.0: must be positive"),
        ({"dataloader_num_workers": -1}, "--dataloader_num_workers=-1: must not be negative"),
        ({"optim": "sgd", "adam_beta1": 0.8}, "--adam_beta1=0.8: has no effect with --optim=sgd, only with adamw or"),
        ({"optim": "adafactor", "adam_beta2": 0.9}, "--adam_beta2=0.9: has no effect"),
        ({"optim": "lion", "adam_epsilon": 1e-6}, "--adam_epsilon=1e-06: has no effect"),
        ({"lr_scheduler_type": "constant", "learning_rate_end": 1e-6}, "--learning_rate_end=1e-06: has no effect"),
        ({"lr_scheduler_type": "inverse_sqrt", "learning_rate_end": 1e-6}, "only with linear or cosine"),
        ({"warmup_steps": 3, "warmup_ratio": 0.1}, "--warmup_ratio=0.1: says the same as --warmup_steps=3"),
        ({"warmup_ratio": 1.0}, "--warmup_ratio=1.0: must be at least 0 and less than 1"),
        ({"optim": "adam"}, "--optim=adam: expected one of adamw, "),
        ({"compat": "tlr"}, "--compat=tlr: expected one of trl or null"),
    ],
)
def test_settings_that_cannot_be_or_have_no_effect_are_refused_by_name(make, changes, message):
    with pytest.raises(Refused) as refusal:
        make(**changes)
    assert message in str(refusal.value)


def test_no_clip_and_no_number_of_steps_are_null(make):
    assert make(max_grad_norm=None, max_steps=None).max_grad_norm is None


def test_a_step_takes_the_rows_of_all_its_micro_batches(make):
    assert make(total_batch_size=4, gradient_accumulation_steps=3).rows_per_step == 12
