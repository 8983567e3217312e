"""What is wrong with a checkpoint is one short line."""

import gc
import sys
import threading
import time
import weakref
from types import SimpleNamespace

import pytest

from oddsmill.train.checkpoint.damage import closed_loops_held_back, first_line, forget_frames, join_writers, set_aside


def test_the_root_of_an_error_is_told_in_a_short_line():
    error = RuntimeError("all of it")
    error.__cause__ = ValueError("crc32c does not match\nmore")
    assert first_line(error) == "crc32c does not match"
    assert first_line(KeyError()) == "KeyError"
    assert len(first_line(ValueError("x" * 1000))) < 210


def test_a_damaged_one_is_renamed_in_place_of_an_earlier_one(tmp_path):
    for name in ("4", "4.damaged", "2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    set_aside(tmp_path, {4: "cut off"}, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4.damaged"]
    assert (tmp_path / "4.damaged" / "file").read_text() == "4"


def test_nothing_of_a_failed_save_stays_in_memory_with_its_error():
    class Task:
        pass

    tasks = []

    def save():
        task = Task()
        tasks.append(weakref.ref(task))
        try:
            raise ValueError("no space left")
        except ValueError as error:
            raise OSError("the save failed") from error

    with pytest.raises(OSError, match="the save failed") as failed:
        save()
    error = failed.value
    del failed
    forget_frames(error)
    gc.collect()
    assert tasks[0]() is None and isinstance(error.__cause__, ValueError)


def test_threads_of_the_library_that_still_write_are_waited_for():
    writer = type("Writer", (threading.Thread,), {"__module__": "orbax.checkpoint"})(target=time.sleep, args=(0.05,))
    other = threading.Thread(target=time.sleep, args=(0.5,))
    for thread in (writer, other):
        thread.start()
    join_writers()
    assert not writer.is_alive() and other.is_alive()
    other.join()


def test_only_complaints_about_closed_event_loops_are_held_back(monkeypatch):
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: heard.append(unraisable.exc_value))
    before, others = sys.unraisablehook, [RuntimeError("another"), ValueError("Event loop is closed")]
    with closed_loops_held_back():
        for error in (RuntimeError("Event loop is closed"), *others):
            sys.unraisablehook(SimpleNamespace(exc_value=error))
    assert heard == others and sys.unraisablehook is before
