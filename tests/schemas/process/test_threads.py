"""Threads that cannot be had: one message before a library waits for ever, aborts or crashes for want of them."""

import threading
from pathlib import Path

import pytest

from oddsmill.schemas.dataset_files import open_shard
from oddsmill.schemas.errors import run_command
from oddsmill.schemas.process.threads import NoThreads, check_reader_threads, check_threads, shortage_of_threads


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """Lets three threads be started; returns those that were."""
    start, started = threading.Thread.start, []

    def limited(thread: threading.Thread) -> None:
        if len(started) == 3:
            raise RuntimeError("can't start new thread")
        start(thread)
        started.append(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    return started


def test_threads_are_tried_at_one_time_and_let_go(few: list[threading.Thread]):
    check_threads(3, "reading")
    assert len(few) == 3
    assert not any(thread.is_alive() for thread in few)
    with pytest.raises(
        NoThreads, match="reading takes about 4 threads, and only 0 can be started here; raise the limit"
    ):
        check_threads(4, "reading")


def test_a_command_ends_with_one_message(few: list[threading.Thread], capsys: pytest.CaptureFixture[str]):
    def starts_more() -> None:
        for _ in range(5):
            threading.Thread(target=int).start()

    for command in (starts_more, lambda: check_threads(9, "JAX")):
        assert run_command(command) == 1
        message = capsys.readouterr().err
        assert message.startswith("failed: ")
        assert message.count("\n") == 1
        assert "raise the limit (ulimit -u" in message
    assert shortage_of_threads(ValueError("x")) is None


def test_no_shard_is_opened_without_the_threads_of_its_reader(few: list[threading.Thread], tmp_path: Path):
    check_reader_threads.cache_clear()
    with pytest.raises(OSError, match="reading shards takes about 66 threads"):
        open_shard(str(tmp_path / "any"))
    check_reader_threads.cache_clear()
