"""The newest and the best checkpoint stay."""

from types import SimpleNamespace

import pytest

from oddsmill.train.checkpoint.retention import NewestAndBest


@pytest.mark.parametrize(
    ("total", "best", "kept"),
    [(1, None, {4}), (2, None, {3, 4}), (1, 2, {2, 4}), (2, 2, {2, 4}), (3, 2, {2, 3, 4}), (1, 4, {4}), (2, 9, {3, 4})],
)
def test_so_many_stay_and_the_newest_and_the_best_in_any_case(total, best, kept):
    policy = NewestAndBest(total)
    policy.best_step = best
    checkpoints = [SimpleNamespace(step=step) for step in (1, 2, 3, 4)]
    stay = policy.should_preserve(checkpoints, context=None)
    assert {checkpoint.step for checkpoint, stays in zip(checkpoints, stay, strict=True) if stays} == kept
