"""The failure of one process ends all, with its number and its reason, whatever they wait for."""

import threading
import time

import jax
import pytest

from oddsmill.schemas.errors import Refused, RunFailed, Stopped
from oddsmill.train.parallel import failures
from oddsmill.train.parallel.device_errors import explain_device_errors
from oddsmill.train.parallel.failures import ProcessLost, RefusedElsewhere, agreed, ends_for_all, find_failure
from oddsmill.train.parallel.processes import gather_bytes, together
from tests.train.parallel.coordination_service import Joined


def do_together(*waits):
    with together():
        for wait in waits:
            wait()
    return "ended well"


def fails_with(error):
    def fail():
        raise error

    return lambda: do_together(fail)


@pytest.mark.parametrize("who", [0, 1, 2])
@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (Refused("/rows: no manifest"), RefusedElsewhere, "process {} refused: /rows: no manifest"),
        (RunFailed("the disk is full"), ProcessLost, "process {} failed: the disk is full"),
        (KeyError("weights"), ProcessLost, "process {} failed: KeyError: 'weights'"),
        (KeyboardInterrupt(), ProcessLost, "process {} failed: KeyboardInterrupt: KeyboardInterrupt"),
    ],
)
def test_what_ends_one_process_ends_those_that_wait_for_it_by_its_name(monkeypatch, who, error, kind, message):
    bodies = [lambda: do_together(lambda: gather_bytes(b"hello"))] * 3
    bodies[who] = fails_with(error)
    ends = Joined(monkeypatch, 3).run(*bodies)
    assert ends[who] is error
    for end in ends[:who] + ends[who + 1 :]:
        assert type(end) is kind and str(end) == message.format(who)


def test_an_end_is_common_too(monkeypatch):
    """A process that has nothing left to do waits for one that still exports, and hears if that fails."""
    assert Joined(monkeypatch, 2).run(do_together, do_together) == ["ended well"] * 2
    late = fails_with(RunFailed("export: disk full"))
    ends = Joined(monkeypatch, 2).run(lambda: (time.sleep(0.1), late()), do_together)
    assert isinstance(ends[1], ProcessLost) and "process 0 failed: export: disk full" in str(ends[1])


@pytest.mark.parametrize("error", [Refused("they differ"), Stopped("SIGTERM at step 7", 15)])
def test_what_all_raise_alike_is_told_to_nobody(monkeypatch, error):
    joined = Joined(monkeypatch, 2)
    ends = joined.run(fails_with(agreed(error)), fails_with(agreed(error)))
    assert ends == [error, error]
    assert not joined.service.key_value_dir_get("oddsmill/failed/")


def test_a_lost_connection_is_explained_by_the_reason_that_was_told(monkeypatch):
    joined = Joined(monkeypatch, 2)
    monkeypatch.setattr("oddsmill.train.parallel.device_errors.is_joined", lambda: True)
    told = threading.Event()

    def one():
        try:
            fails_with(RunFailed("its disk is full"))()
        finally:
            told.set()

    def zero():
        with explain_device_errors("runs/a"):
            told.wait(10)
            raise jax.errors.JaxRuntimeError("UNAVAILABLE: Gloo all-reduce failed")

    ends = joined.run(zero, one)
    assert str(ends[0]) == "process 1 failed: its disk is full"


def test_what_comes_of_a_failure_does_not_hide_it(monkeypatch):
    joined = Joined(monkeypatch, 3)
    first = threading.Event()

    def two():
        try:
            fails_with(Refused("no such model"))()
        finally:
            first.set()

    def one():
        first.wait(10)
        fails_with(jax.errors.JaxRuntimeError("UNAVAILABLE: connection reset"))()

    def zero():
        first.wait(10)
        time.sleep(0.2)
        return find_failure()

    assert joined.run(zero, one, two)[0] == (2, True, "no such model")


class Left(BaseException):
    pass


@pytest.fixture
def left(monkeypatch):
    def leave(code):
        raise Left(code)

    monkeypatch.setattr(failures.os, "_exit", leave)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (Refused("no data"), 2, "refused: no data\n"),
        (RunFailed("disk full"), 1, "failed: disk full\n"),
        (RefusedElsewhere("process 0 refused: no data"), 2, "refused: process 0 refused: no data\n"),
        (ZeroDivisionError("division by zero"), 1, "ZeroDivisionError: division by zero\n"),
    ],
)
def test_a_command_of_several_processes_leaves_at_once_with_its_own_message(
    monkeypatch, left, capsys, error, code, said
):
    def command():
        with ends_for_all():
            raise error

    joined = Joined(monkeypatch, 2)
    one, zero = (joined.run(*order)[number] for number, order in ((1, [int, command]), (0, [command, lambda: None])))
    assert [end.args for end in (one, zero)] == [(code,)] * 2
    assert capsys.readouterr().err.endswith(said)


def test_the_first_process_lets_the_others_go_before_it(monkeypatch, left):
    order = []

    def zero():
        with ends_for_all():
            raise RunFailed("disk full")

    def one():
        try:
            do_together(lambda: gather_bytes(b""))
        except ProcessLost:
            order.append("one")
            with ends_for_all():
                raise

    joined = Joined(monkeypatch, 2)
    ends = joined.run(lambda: (zero(),), one)
    assert [type(end) for end in ends] == [Left, Left] and order == ["one"]


def test_a_process_alone_raises_what_it_raises(left):
    with pytest.raises(RunFailed, match="disk full"), ends_for_all(), together():
        raise RunFailed("disk full")
    assert find_failure() is None


def test_the_watch_ends_a_process_whose_main_thread_waits_in_a_library(monkeypatch, left, capsys):
    monkeypatch.setattr(failures, "_LOOKS_EVERY_S", 0.01)
    monkeypatch.setattr(failures, "_GRACE_S", 0.01)
    joined = Joined(monkeypatch, 2)
    joined.service.key_value_set(f"{failures._GONE}00000001", "")
    joined.service.key_value_set(f"{failures._FOLDER}00000001", '[true, "no model \\u001b[2J"]')
    # A script that uses the library may be at something of its own, such as an upload.
    assert joined.run(failures._watch, lambda: (time.sleep(0.2), failures._noticed.set()))[0] is None
    failures._noticed.clear()
    monkeypatch.setattr(failures, "_depth", 1)
    ends = joined.run(failures._watch, int)
    assert ends[0].args == (2,)
    assert capsys.readouterr().err == "refused: process 1 refused: no model \\x1b[2J\n"
    failures._noticed.set()  # the main thread ends by itself
    assert joined.run(failures._watch, int)[0] is None


def test_the_watch_has_ended_before_the_interpreter_does(monkeypatch):
    at_exit = []
    monkeypatch.setattr(failures.atexit, "register", lambda *call: at_exit.insert(0, call))
    monkeypatch.setattr(failures, "_LOOKS_EVERY_S", 60)

    def process():
        failures.watch_others()
        (watching,) = (thread for thread in threading.enumerate() if thread.name == "watch other processes")
        for call, *arguments in at_exit:
            call(*arguments)
        return watching.is_alive()

    assert Joined(monkeypatch, 1).run(process) == [False]
