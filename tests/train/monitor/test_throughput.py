"""Rates between two logged steps."""

import time

import numpy as np
import pytest

from oddsmill.train.monitor import throughput
from oddsmill.train.monitor.mfu import step_flops
from oddsmill.train.monitor.throughput import Throughput, num_elements
from tests.train.decoders import decoder_config

POSITION, BRANCH = np.tile(np.arange(8), (2, 1)), np.tile([1, 1, 2, 2, 3, 3, 0, 0], (2, 1))


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def meter(config, **changes):
    whole = throughput.num_parameters(config)
    return Throughput(config, **{"nll_scope": "full", "rows_per_step": 4, "num_trained": whole, **changes})


def test_rates_are_of_the_time_since_they_were_last_read_without_pauses(clock):
    meters = meter(decoder_config())
    for _ in range(2):
        clock[0] += 1
        meters.add_step(num_tokens=24, num_pairs=6, position_BL=POSITION, branch_BL=BRANCH)
    with meters.paused():
        clock[0] += 100
    # Two steps of four rows of eight slots.
    assert meters.rates() == {"tokens_per_second": 24.0, "pairs_per_second": 6.0, "padding_share": 1 - 48 / 64}
    clock[0] += 2
    meters.add_step(num_tokens=32, num_pairs=2, position_BL=POSITION, branch_BL=BRANCH)
    assert meters.rates() == {"tokens_per_second": 16.0, "pairs_per_second": 1.0, "padding_share": 0.0}


def test_the_rows_of_a_process_stand_for_those_of_the_others(clock, monkeypatch):
    config = decoder_config()
    monkeypatch.setattr(throughput, "utilisation", lambda flops, seconds: flops / seconds)
    meters = meter(config, num_trained=throughput.num_parameters(config) / 2)
    clock[0] += 2
    meters.add_step(num_tokens=24, num_pairs=6, position_BL=POSITION, branch_BL=BRANCH)
    expected = step_flops(config, POSITION, BRANCH, nll_scope="full", trained_share=0.5)
    assert meters.rates()["mfu"] == 2 * expected / 2


def test_the_numbers_of_a_tree_are_counted():
    assert num_elements({"a": np.zeros((2, 3)), "b": [np.zeros(4)]}) == 10
