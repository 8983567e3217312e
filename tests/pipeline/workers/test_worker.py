"""Workers send errors with their traceback, also those that cannot be pickled, and use their own descriptors alone."""

import os
import pickle
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any
from unittest.mock import Mock

import fsspec
import pytest

from oddsmill.pipeline.workers import worker
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


@pytest.mark.parametrize(
    ("short", "problem"),
    [("os.fork", "worker processes cannot be started (no more)"), ("threading.Thread.start", "no more")],
)
def test_a_shortage_in_the_server_or_a_worker_is_the_answer_to_what_is_asked(
    short: str, problem: str, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: Any) -> None:
        raise BlockingIOError(11, "no more") if short == "os.fork" else RuntimeError("no more")

    pairs = [socket.socketpair() for _ in range(1 + (short == "os.fork"))]
    monkeypatch.setattr(short, refuse)
    monkeypatch.setattr(os, "_exit", sys.exit)
    for name in ("load_copy", "Chain", "_may_fork", "gc"):
        monkeypatch.setattr(worker, name, Mock())
    with pytest.raises(SystemExit, match="1"):
        worker._serve_all(worker.Setup(Mock(), [theirs.detach() for _, theirs in pairs], 0, {}))
    answer: worker.Answer = pickle.loads(Connection(pairs[-1][0].detach()).recv_bytes())
    assert str(answer.error).startswith(problem)


def test_what_a_program_has_set_for_a_store_holds_for_the_workers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fsspec.config, "conf", {"s3": {"anon": True}})
    stores = worker.settings_of_stores("s3://bucket/out")
    assert worker.settings_of_stores("out") == {}
    monkeypatch.setattr(fsspec.config, "conf", {})
    monkeypatch.setattr(worker, "load_copy", Mock(side_effect=Refused("no tokenizer")))
    monkeypatch.setattr(os, "_exit", sys.exit)
    ours, theirs = socket.socketpair()
    with ours, pytest.raises(SystemExit):
        worker._serve_all(worker.Setup(Mock(), [theirs.detach()], 0, stores))
    assert fsspec.config.conf == {"s3": {"anon": True}}


def test_the_exit_code_says_how_the_first_worker_ended_that_did_not_end_well():
    def child(code: int) -> int:
        return os.posix_spawn("/bin/sh", ["sh", "-c", f"exit {code}" if code >= 0 else f"kill {code} $$"], {})

    assert _wait([child(0), child(0)]) == 0
    assert _wait([child(3)]) == 3
    assert _wait([child(-9)]) == 137


def test_a_server_whose_launcher_has_ended_says_nothing():
    command = [sys.executable, "-c", COMMAND, "1"]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


def test_pyarrow_finds_no_pandas_and_others_do():
    """Also where blocks are opened: `to_pandas_dtype` would import it."""
    opened = "from tests.pipeline.output.test_blocks import *; test_no_block_gives_no_item()"
    script = (
        f"import sys, pyarrow; _look_for_pandas(); pyarrow.array([0]); {opened}; assert 'pandas' not in sys.modules"
    )
    script = f"from oddsmill.pipeline.workers.worker import _look_for_pandas; {script}; import pandas"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
