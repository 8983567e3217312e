"""What is due after a step, as a table."""

import errno
import signal

import pytest

from oddsmill.schemas.errors import RunFailed
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.loop import Due, Schedule, due_after, train
from oddsmill.train.parallel.requests import Request

SCHEDULE = Schedule(
    num_steps=12, has_evaluation=True, eval_steps=4, save_steps=6, do_last_save=True, load_best_model_at_end=False
)
NOTHING, SAVE, STOP = Request(), Request(save=True), Request(save=True, stop=signal.SIGTERM)


@pytest.mark.parametrize(
    ("step", "changes", "request_", "evaluation", "later", "save"),
    [
        (1, {}, NOTHING, False, False, False),
        (4, {}, NOTHING, True, False, False),
        (6, {}, NOTHING, False, False, True),
        (12, {}, NOTHING, True, False, True),
        # At the end there is an evaluation whatever eval_steps is, and none without an eval split.
        (12, {"eval_steps": None}, NOTHING, True, False, True),
        (4, {"eval_steps": None}, NOTHING, False, False, False),
        (12, {"has_evaluation": False}, NOTHING, False, False, True),
        (4, {"has_evaluation": False}, NOTHING, False, False, False),
        # A checkpoint on request, by signal or by the clock; none where save_steps is null.
        (5, {}, SAVE, False, False, True),
        (4, {}, SAVE, True, False, True),
        (6, {"save_steps": None}, NOTHING, False, False, False),
        # A stop saves at once and leaves the evaluation to the next start.
        (5, {}, STOP, False, False, True),
        (4, {}, STOP, False, True, True),
        (12, {}, STOP, False, True, True),
        (12, {"has_evaluation": False}, STOP, False, False, True),
    ],
)
def test_what_is_due_follows_from_the_step_and_the_request(step, changes, request_, evaluation, later, save):
    due = due_after(step, SCHEDULE._replace(**changes), request_)
    assert (due.evaluation, due.later_evaluation, due.save, due.stop) == (evaluation, later, save, request_.stop)


@pytest.mark.parametrize(
    ("changes", "is_best", "is_over", "saves"),
    [
        ({}, True, False, False),
        ({"load_best_model_at_end": True}, True, False, True),
        ({"load_best_model_at_end": True}, False, False, False),
        # The end of the run, which may come early.
        ({}, False, True, True),
        ({"do_last_save": False}, False, True, False),
        ({"do_last_save": False, "load_best_model_at_end": True}, True, True, True),
    ],
)
def test_an_evaluation_may_ask_for_a_checkpoint(changes, is_best, is_over, saves):
    due = due_after(4, SCHEDULE._replace(**changes), NOTHING)
    assert due.evaluation and due.saves(is_best=is_best, is_over=is_over) == saves


def test_the_best_evaluation_of_an_earlier_step_asks_for_none():
    assert not Due(save_if_best=True).saves(is_best=True, is_over=False)


def test_a_last_step_without_a_last_save_is_saved_only_where_save_steps_say_so():
    due = due_after(12, SCHEDULE._replace(do_last_save=False, save_steps=5), NOTHING)
    assert not due.saves(is_best=False, is_over=True)
    assert due_after(12, SCHEDULE._replace(do_last_save=False), NOTHING).saves(is_best=False, is_over=True)


def test_a_fault_of_the_machine_before_the_first_step_is_one_message(monkeypatch, tmp_path):
    def full(config):
        raise OSError(errno.ENOSPC, "No space left on device", "shard")

    monkeypatch.setattr("oddsmill.train.loop.prepare", full)
    with pytest.raises(RunFailed, match=r"shard: No space left on device\. Make room"):
        train(TrainConfig(data="d", run_dir=str(tmp_path), model=ModelConfig(config="c")))
