"""Signals between two steps."""

import os
import signal
import threading

import pytest

from oddsmill.schemas.process.signals import watched
from oddsmill.train.parallel.signals import StopSignals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_is_noted_and_the_handlers_come_back(number, capfd):
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), number)
        assert signals.received == number
        os.kill(os.getpid(), signal.SIGTERM)  # a scheduler may say it twice
        assert signals.received == number
    assert signal.getsignal(number) is before
    assert capfd.readouterr().err == f"{number.name}: saving after this step\n"


def test_a_second_ctrl_c_interrupts_at_once():
    with StopSignals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_another_thread_than_the_main_one_changes_nothing():
    def enter():
        with StopSignals():
            found.append(signal.getsignal(signal.SIGTERM))

    found: list = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


def test_a_command_that_has_nothing_to_save_ends_at_its_first_signal_and_a_library_saves(monkeypatch):
    ended = []
    monkeypatch.setattr("oddsmill.schemas.process.signals.end_at_once", ended.append)
    with watched(), StopSignals() as signals:
        signals.nothing_to_save = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert (signals.received, ended) == (None, [signal.SIGTERM])
        signals.nothing_to_save = False
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        assert (signals.received, ended) == (signal.SIGHUP, [signal.SIGTERM])
        os.kill(os.getpid(), signal.SIGINT)
        assert ended == [signal.SIGTERM, signal.SIGINT]
    with StopSignals() as signals:
        signals.nothing_to_save = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
