"""Steps are reported one step late, checked in order, and nothing but the report changes."""

from contextlib import nullcontext

import numpy as np
import pytest

from oddsmill.schemas.console import show_messages
from oddsmill.schemas.errors import RunFailed
from oddsmill.train.data.data_order import DataOrder
from oddsmill.train.monitor.step_monitor import StepMonitor

BATCH = {"pair_ids": np.array([[7, 0], [8, 9]], np.uint64), "position": np.zeros((2, 4)), "branch": np.ones((2, 4))}


class Writer:
    def __init__(self):
        self.lines = []

    def write(self, step, values):
        self.lines.append({"step": step, **values})


class Alarms:
    count = 0

    def __init__(self):
        self.steps = []

    def add_step(self, step, values):
        self.steps.append(step)
        yield from [f"step {step}: look"] if step == 3 else []


class Throughput:
    def __init__(self):
        self.steps = []

    def paused(self):
        return nullcontext()

    def add_step(self, *, num_tokens, num_pairs, position_BL, branch_BL):
        self.steps.append((num_tokens, num_pairs))

    def rates(self):
        return {"tokens_per_second": 5.0, "mfu": 0.5}


def metrics(loss=1.0, skipped=0.0):
    return {"loss": loss, "grad_norm": 1.0, "skipped_steps": skipped, "num_tokens": 10.0, "num_pairs": 3.0}


@pytest.fixture
def parts():
    return Writer(), Alarms(), Throughput(), DataOrder()


def monitor_of(parts, **changes):
    settings = {
        "learning_rate": lambda step: 100 * step, "rows_per_step": 2, "rows_per_epoch": 8, "logging_steps": 1,
        "num_steps": 6, "max_skipped_steps": 0,
        "nonfinite_error": lambda step, values, batch: RunFailed(f"step {step} of {batch['pair_ids'].tolist()}"),
    }  # fmt: skip
    return StepMonitor(*parts, **settings | changes)


def test_a_step_is_written_when_the_next_one_is_under_way(parts):
    writer, alarms, throughput, order = parts
    monitor = monitor_of(parts)
    order.add(1, BATCH["pair_ids"])
    monitor.add(1, metrics(), BATCH)
    assert writer.lines == [] and throughput.steps == []
    order.add(2, BATCH["pair_ids"])
    first = order.after(1)
    monitor.add(2, metrics(loss=2.0), BATCH)
    assert writer.lines == [
        {
            "step": 1, "loss": 1.0, "grad_norm": 1.0, "skipped_steps": 0.0, "learning_rate": 0.0, "epoch": 0.25,
            "tokens_per_second": 5.0, "alarms": 0, "data_order": first, "mfu": 0.5,
        }
    ]  # fmt: skip
    assert list(writer.lines[0])[-3:] == ["alarms", "data_order", "mfu"]
    with monitor.paused():
        assert writer.lines[1]["loss"] == 2.0 and writer.lines[1]["data_order"] == order.digest
    monitor.flush()
    assert len(writer.lines) == 2 and alarms.steps == [1, 2] and throughput.steps == [(10, 3), (10, 3)]


def test_only_logged_steps_and_the_last_are_written_and_all_are_counted(parts):
    writer, alarms, throughput, _ = parts
    monitor = monitor_of(parts, logging_steps=4)
    for step in range(1, 7):
        monitor.add(step, metrics(), BATCH)
    monitor.flush()
    assert [line["step"] for line in writer.lines] == [4, 6]
    assert alarms.steps == list(range(1, 7)) and len(throughput.steps) == 6


def test_a_step_that_is_skipped_is_named_and_has_no_part_in_the_schedule_and_the_alarms(parts, capsys):
    writer, alarms, _, _ = parts
    show_messages()
    monitor = monitor_of(parts, max_skipped_steps=1)
    for step, values in ((1, metrics()), (2, metrics(loss=np.nan, skipped=1.0)), (3, metrics(skipped=1.0))):
        monitor.add(step, values, BATCH)
    monitor.flush()
    said = capsys.readouterr().out.splitlines()
    ids = " ".join(f"{pair:016x}" for pair in (7, 8, 9))
    assert said == [
        f"warning: step 2: loss nan, gradient norm 1.0: left out, 1 of at most 1; its pairs: {ids}",
        "warning: step 3: look",
    ]
    assert alarms.steps == [1, 3] and [line["learning_rate"] for line in writer.lines] == [0, 100, 100]


def test_one_too_many_ends_the_run_before_it_is_written(parts):
    monitor = monitor_of(parts)
    monitor.add(1, metrics(loss=np.inf, skipped=1.0), BATCH)
    with pytest.raises(RunFailed, match=r"step 1 of \[\[7, 0\], \[8, 9\]\]"):
        monitor.flush()
    assert parts[0].lines == []


def test_the_order_of_several_processes_is_written_where_it_is_known(parts, monkeypatch):
    writer, _, _, order = parts
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr("oddsmill.train.data.data_order.gather_bytes", lambda message: [message])
    monitor = monitor_of(parts)
    for step in (1, 2):
        order.add(step, BATCH["pair_ids"])
        monitor.add(step, metrics(), BATCH)
    order.gather()
    monitor.flush()
    assert ["data_order" in line for line in writer.lines] == [False, True]
