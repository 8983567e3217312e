"""Workers send errors with their traceback, also those that cannot be pickled, and use their own descriptors alone."""

import os
import subprocess
import sys
import threading

from oddsmill.pipeline.workers.worker import COMMAND, _portable, _wait
from oddsmill.schemas.errors import Refused


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return _portable(caught)


def test_an_error_is_sent_with_its_traceback():
    refused = raised(Refused("no template"))
    assert (type(refused), str(refused)) == (Refused, "no template")
    assert "in raised" in refused.__notes__[0]
    other = raised(ValueError(threading.Lock()))
    assert type(other) is RuntimeError
    assert str(other).startswith("ValueError: <unlocked _thread.lock")


def test_the_exit_code_says_how_the_first_worker_ended_that_did_not_end_well():
    def child(code: int) -> int:
        return os.posix_spawn("/bin/sh", ["sh", "-c", f"exit {code}" if code >= 0 else f"kill {code} $$"], {})

    assert _wait([child(0), child(0)]) == 0
    assert _wait([child(3)]) == 3
    assert _wait([child(-9)]) == 137


def test_a_server_whose_launcher_has_ended_says_nothing():
    command = [sys.executable, "-c", COMMAND.format("nothing"), "1"]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
