"""Signals that end a command: what happens, and whose they are afterwards."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from oddsmill.schemas.process import signals
from oddsmill.schemas.process.signals import ENDING, is_command_line, noting, on_end, watched

ROOT = Path(__file__).parents[3]
COMMAND = """
import multiprocessing, os, signal, sys, time
from oddsmill.schemas.errors import run_command
from oddsmill.schemas.process import signals
from oddsmill.schemas.process.signals import noting, on_end

def say(line):
    os.write(1, line.encode() + b"\\n")

def command():
{body}

sys.exit(run_command(command))
"""
SWALLOWED = """\
    while True:
        try:
            say("ready")
            time.sleep(30)
        except:
            pass
"""
HEARS_NOTHING = """\
        import ctypes
        mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
        lock(mutex)
        say("ready")
        lock(mutex)  # as in a compilation, no instruction of Python comes for long
"""
STUCK = "    if True:\n" + HEARS_NOTHING
STUCK_NOTED = (
    """\
    noted = []
    with noting(lambda number: number not in noted and not noted.append(number)):
"""
    + HEARS_NOTHING
)
CLEANED = """\
    child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(30,), daemon=True)
    with on_end(lambda: say("second")), on_end(lambda: 1 / 0), on_end(lambda: say("first")):
        say("ready")
        time.sleep(30)
"""
SLOW_TO_CLEAN = """\
    with on_end(lambda: (say("cleaning"), time.sleep(30))):
        say("ready")
        time.sleep(30)
"""


@pytest.fixture
def start(tmp_path):
    """Starts a command and waits until it is ready."""
    processes = []

    def begin(body: str, prefix: tuple[str, ...] = ()):
        (tmp_path / "command.py").write_text(COMMAND.format(body=body))
        processes.append(
            subprocess.Popen(
                [*prefix, sys.executable, tmp_path / "command.py"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
            )
        )
        assert processes[-1].stdout.readline() == "ready\n"
        time.sleep(0.1)  # now it sleeps or hears nothing
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("body", "number"),
    [(SWALLOWED, signal.SIGINT), (SWALLOWED, signal.SIGTERM), (SWALLOWED, signal.SIGHUP), (STUCK, signal.SIGINT)],
)
def test_a_signal_ends_a_command_that_swallows_exceptions_or_hears_nothing(start, body, number):
    process = start(body)
    process.send_signal(number)
    output, error = process.communicate(timeout=20)
    assert (process.returncode, output) == (128 + number, "")
    assert error == f"interrupted by {number.name}: run the same command again to go on\n"


def test_what_is_registered_is_cleaned_up_the_newest_first(start):
    process = start(CLEANED)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "first\nsecond\n" and process.returncode == 143


def test_a_second_ctrl_c_waits_for_no_clean_up(start):
    process = start(SLOW_TO_CLEAN)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "cleaning\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=5) == 130


def test_a_second_ctrl_c_ends_a_command_that_notes_the_first_and_hears_nothing(start):
    process = start(STUCK_NOTED)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(1.2)
    assert process.wait(timeout=5) == 130


def test_what_nohup_has_set_to_be_ignored_stays_ignored(start):
    process = start(SWALLOWED, ("nohup",))
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5) == 143


def test_the_signals_are_given_back():
    before = [signal.getsignal(number) for number in ENDING]
    threads = threading.active_count()
    read_end, write_end = os.pipe()  # as the loop of a notebook has it
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    with watched():
        assert is_command_line() and signal.getsignal(signal.SIGHUP) is not before[2]
        with watched():
            pass
        assert is_command_line()
    assert not is_command_line() and [signal.getsignal(number) for number in ENDING] == before
    assert signal.set_wakeup_fd(-1) == write_end
    os.close(read_end)
    os.close(write_end)
    deadline = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == threads


def test_a_signal_that_the_main_thread_has_answered_is_answered_once(monkeypatch):
    """The watching thread may come late: then the first Ctrl-C must not count as the second, which saves nothing."""
    monkeypatch.setattr(signals, "STUCK_S", 0.2)
    noted: list[signal.Signals] = []
    with watched(), noting(lambda number: not noted.append(number)):
        os.kill(os.getpid(), signal.SIGINT)
        ctypes.PyDLL(None).usleep(300_000)  # no other thread runs meanwhile
        time.sleep(0.4)
        assert noted == [signal.SIGINT]


def test_a_library_notes_signals_and_interrupts_as_python_does():
    taken: list[signal.Signals] = []
    with noting(lambda number: len(taken) < 2 and not taken.append(number)):
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert taken == [signal.SIGHUP, signal.SIGINT]


def test_a_process_that_is_forked_has_its_signals_to_itself():
    with watched(), on_end(lambda: None):
        pid = os.fork()
        if pid == 0:
            alone = not is_command_line() and not signals._cleanups and signal.set_wakeup_fd(-1) == -1
            os._exit(0 if alone else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert is_command_line()
