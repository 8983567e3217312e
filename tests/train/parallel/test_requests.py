"""Save and stop requests: at once in a process alone, at one step in several."""

import itertools
import signal
import time
from types import SimpleNamespace

import jax
import pytest

import oddsmill.train.parallel.requests
from oddsmill.train.parallel.requests import LEAD_STEPS, Request, Requests, Timer

NOTHING, SAVE = Request(), Request(save=True)
STOP = Request(save=True, stop=signal.SIGTERM)


def signals(received=None):
    return SimpleNamespace(received=received)


def test_a_process_alone_acts_at_once():
    noted = signals()
    requests = Requests(noted, None)
    assert requests.poll(1) == NOTHING
    noted.received = signal.SIGTERM
    assert requests.poll(2) == STOP


def test_a_timer_is_due_once_and_starts_anew_when_a_checkpoint_is_made(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    timer, requests = Timer(1), Requests(signals(), 1)
    assert not timer.is_due()
    now[0] = 60
    assert timer.is_due() and not timer.is_due()
    assert requests.poll(5) == SAVE and requests.poll(6) == NOTHING
    now[0] = 119
    requests.saved(7)
    now[0] = 121
    assert requests.poll(8) == NOTHING
    now[0] = 179
    assert requests.poll(9) == SAVE
    assert not Timer(None).is_due()


class Store:
    """The key-value store of the coordination service."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value):
        if key in self.values:
            raise jax.errors.JaxRuntimeError(f"ALREADY_EXISTS: key {key} already exists.")
        self.values[key] = value

    def key_value_try_get(self, key):
        if key not in self.values:
            raise jax.errors.JaxRuntimeError(f"NOT_FOUND: Config key {key} not found.")
        return self.values[key]


class Processes:
    """Processes that take steps in every order that their steps, which wait for each other, allow."""

    def __init__(self, monkeypatch, count, minutes=None):
        self.noted = [signals() for _ in range(count)]
        self.index, store = 0, Store()
        monkeypatch.setattr(jax, "process_count", lambda: count)
        monkeypatch.setattr(jax, "process_index", lambda: self.index)
        monkeypatch.setattr(oddsmill.train.parallel.requests, "coordination_client", lambda: store)
        monkeypatch.setattr(oddsmill.train.parallel.requests, "_sessions", itertools.repeat(7))
        self.requests = [Requests(noted, minutes) for noted in self.noted]

    def poll(self, index, step):
        self.index = index
        return self.requests[index].poll(step)


def orders(steps):
    """Each order of polls of two processes in which none polls after step n before the other has begun step n - 1."""

    def go_on(done, polls):
        if min(done) == steps:
            yield polls
        for index in (0, 1):
            step = done[index] + 1
            if step <= steps and done[1 - index] >= step - 2:
                after = list(done)
                after[index] = step
                yield from go_on(after, [*polls, (index, step)])

    return go_on([0, 0], [])


@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("when", [1, 3])
def test_two_processes_stop_at_the_same_step_in_whatever_order_they_poll(monkeypatch, who, when):
    found = set()
    for polls in orders(6):
        processes = Processes(monkeypatch, 2)
        acted = [None, None]
        for index, step in polls:
            if (index, step) == (who, when):
                processes.noted[who].received = signal.SIGTERM
            request = processes.poll(index, step)
            if request != NOTHING and acted[index] is None:
                assert request == STOP
                acted[index] = step
        assert acted == [when + LEAD_STEPS] * 2
        found.add(tuple(polls))
    assert len(found) > 20


def test_of_two_signals_the_first_one_counts_for_both(monkeypatch):
    processes = Processes(monkeypatch, 2)
    processes.noted[0].received, processes.noted[1].received = signal.SIGINT, signal.SIGTERM
    acted = [[processes.poll(index, step) for index in (1, 0)] for step in range(1, 4)]
    assert acted == [[NOTHING, NOTHING], [NOTHING, NOTHING], [STOP, STOP]]


def test_the_first_process_has_the_timer(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    processes = Processes(monkeypatch, 2, minutes=1)
    now[0] = 61
    acted = [[processes.poll(index, step) for index in (1, 0)] for step in range(1, 5)]
    assert acted == [[NOTHING, NOTHING], [NOTHING, NOTHING], [SAVE, SAVE], [NOTHING, NOTHING]]


def test_a_checkpoint_that_was_made_meanwhile_answers_a_request_for_one_but_not_a_stop(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for stop, expected in ((None, NOTHING), (signal.SIGTERM, STOP)):
        processes = Processes(monkeypatch, 2, minutes=1)
        now[0] += 61
        processes.noted[0].received = stop
        for step in (1, 2):
            assert [processes.poll(index, step) for index in (0, 1)] == [NOTHING, NOTHING]
            for requests in processes.requests if step == 2 else ():
                requests.saved(step)
        assert [processes.poll(index, 3) for index in (0, 1)] == [expected, expected]
