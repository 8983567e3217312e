"""Locks with owner and age: who holds one, who is refused, and how the lock of a run that is over changes hands."""

import fcntl
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from oddsmill.schemas.errors import Refused, RunFailed
from oddsmill.schemas.locks import lock, places
from oddsmill.schemas.locks.lock import Lock, is_lock, lock_beside, lock_inside, locked
from oddsmill.schemas.locks.places import Owner, place_of
from oddsmill.schemas.process import signals
from tests.cloud_storage import FakeStorage
from tests.pipeline.conftest import messages

HOLDER = r"--output=out: oddsmill pipeline run of \S+ \(process \d+ on \S+, begun 20[^)]+ \(\d+ seconds ago\)\)"
LIVES = HOLDER + " is writing there; wait for its end, stop it, or give another folder"


def hold(stem: str) -> Any:
    return locked(stem, what="--output=out", command="oddsmill pipeline run")


@pytest.fixture(params=["disk", "memory"])
def stem(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "disk":
        yield lock_inside(tmp_path)
        return
    yield lock_inside("memory://out")
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "RENEW_S", 0.02)
    monkeypatch.setattr(lock, "STALE_S", 0.3)
    monkeypatch.setattr(places, "_LOOKS_AFTER_S", 0.002)


def leave(stem: str, number: int = 1, **changes: Any) -> Owner:
    """Leaves the lock of a run that is over, as a kill does."""
    owner = Owner.of_this_process("oddsmill pipeline run")._replace(**changes)
    if stem.startswith("memory:"):
        fsspec.filesystem("memory").pipe_file(f"{stem}-{number}", owner.encode())
    else:
        Path(f"{stem}-{number}").write_bytes(owner.encode())
    return owner


def test_the_second_run_is_refused_by_the_name_of_the_first_which_leaves_nothing(stem: str):
    with hold(stem) as held:
        held.check()
        with pytest.raises(Refused, match=f"^{LIVES}$"), hold(stem):
            raise AssertionError("both hold it")
        held.check()
    assert place_of(stem).numbers() == set()
    with hold(stem):
        pass


def test_a_lock_that_a_killed_run_left_is_told_and_taken_over(stem: str):
    leave(stem)
    with messages() as lines, hold(stem) as held:
        held.check()
        assert place_of(stem).numbers() == {2}
    assert re.fullmatch(f"note       {HOLDER} did not come to its end; its lock is taken over", lines[-1])


def test_a_lock_of_this_machine_whose_process_is_dead_is_taken_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock, "STALE_S", 1e9)
    leave(lock_inside(tmp_path))
    with hold(lock_inside(tmp_path)) as held:
        held.check()


def test_a_lock_of_another_machine_is_watched_first(tmp_path: Path):
    stem = lock_inside(tmp_path)
    leave(stem, boot="another", host="far")
    started = time.monotonic()
    with messages() as lines, hold(stem):
        assert time.monotonic() - started > lock.STALE_S
    assert "on far, begun" in lines[0]
    assert lines[0].endswith("has its lock; waiting up to 0 s to see whether it lives")
    leave(stem, boot="another")
    path, over = Path(f"{stem}-1"), threading.Event()

    def renew() -> None:
        while not over.wait(0.02):
            os.utime(path)

    renewing = threading.Thread(target=renew)
    renewing.start()
    with pytest.raises(Refused, match=LIVES), hold(stem):
        pass
    over.set()
    renewing.join()
    os.utime(path, (0, 0))  # as if it had lain there for years
    started = time.monotonic()
    with hold(stem):
        assert time.monotonic() - started < lock.STALE_S


def test_a_run_that_was_paused_until_another_took_over_stops_and_deletes_nothing(stem: str):
    with hold(stem) as held:
        paused = Lock(held.path.replace("-1", "-7"), "of a run that was paused", held.what)
        assert not paused.is_held()
        # As the other run does it: it makes the next lock, then removes this one.
        other = leave(stem, 2, command="oddsmill pipeline run", user="eve")
        assert not held.is_held()
        place_of(stem).remove(1)
        with pytest.raises(RunFailed) as failed:
            held.check()
    assert str(failed.value).startswith("--output=out is no longer this run's: oddsmill pipeline run of eve (process ")
    assert str(failed.value).endswith(" has taken it over. This run stops, and leaves there what is there now")
    assert place_of(stem).numbers() == {2}
    found = place_of(stem).read(2)
    assert found
    assert found.owner.token == other.token


def test_a_lock_that_somebody_removed_is_lost(stem: str):
    with hold(stem) as held:
        place_of(stem).remove(1)
        with pytest.raises(RunFailed, match=r"its lock .*-1 was removed"):
            held.check()


def test_of_many_who_want_a_stale_lock_one_holds_it_at_a_time(stem: str):
    leave(stem)
    inside, most, wins = 0, 0, 0
    counting, start = threading.Lock(), threading.Barrier(8)

    def want() -> None:
        nonlocal inside, most, wins
        start.wait()
        try:
            with hold(stem) as held:
                with counting:
                    inside += 1
                    most, wins = max(most, inside), wins + 1
                time.sleep(0.1)
                held.check()
                with counting:
                    inside -= 1
        except Refused:
            pass

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert wins >= 1
    assert place_of(stem).numbers() == set()


def test_a_disk_without_locks_of_the_kernel_or_links_has_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    for link in (os.link, refuse):
        monkeypatch.setattr(os, "link", link)
        with hold(lock_inside(tmp_path)) as held:
            held.check()
            with pytest.raises(Refused, match=LIVES), hold(lock_inside(tmp_path)):
                pass
        leave(lock_inside(tmp_path))
        with hold(lock_inside(tmp_path)) as held:
            held.check()
        assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[" * 5000,
        b"[]",
        b'{"pid": "x", "since": 1e300, "host": 3, "token": null}',
        b'{"user": "\\u001b[2J"}',
    ],
)
def test_a_lock_with_any_content_is_somebodys(tmp_path: Path, content: bytes):
    path = tmp_path / ".oddsmill-lock-1"
    path.write_bytes(content)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Refused, match="is writing there") as refused, hold(lock_inside(tmp_path)):
            pass
    assert "\x1b" not in str(refused.value)
    with hold(lock_inside(tmp_path)):
        pass


def test_where_no_lock_can_be_written_the_setting_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    for folder, problem in (("nowhere", "No such file or directory"), ("file", "Not a directory")):
        expected = re.escape(f"--output=out: cannot write there ({problem})")
        with pytest.raises(Refused, match=expected), hold(lock_inside(tmp_path / folder)):
            pass


def test_no_thread_to_be_had_is_a_refusal_and_leaves_no_lock(stem: str, monkeypatch: pytest.MonkeyPatch):
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        # fsspec has a thread of its own, which the tests before have started
        with pytest.raises(Refused, match=r"no thread can be started \(can't start new thread\); raise"), hold(stem):
            pass
    assert place_of(stem).numbers() == set()
    with pytest.raises(RuntimeError, match="of the body"), hold(stem):
        raise RuntimeError("of the body")


@pytest.mark.parametrize("moment", ["asked", "made", "held"])
def test_a_signal_at_any_moment_of_taking_a_lock_leaves_none(stem: str, monkeypatch: pytest.MonkeyPatch, moment: str):
    """The clean-up runs in another thread while this one stands still; a store may answer what it was asked before."""
    kind = type(place_of(stem))
    create, read = kind.create, kind.read
    late: list[threading.Timer] = []

    def end(*_: Any) -> None:
        monkeypatch.undo()
        monkeypatch.setattr(lock, "_ON_ITS_WAY_S", 0.1)
        cleaning = threading.Thread(target=signals._clean_up)
        cleaning.start()
        cleaning.join()
        raise EndedBySignal

    def ask(place: Any, number: int, owner: Owner) -> bool:
        late.append(threading.Timer(0.02, create, (place, number, owner)))
        late[0].start()
        end()
        raise AssertionError

    def look(place: Any, number: int) -> Any:
        return end() if place.numbers() else read(place, number)

    if moment == "asked":
        monkeypatch.setattr(kind, "create", ask)
    elif moment == "made":
        monkeypatch.setattr(kind, "read", look)
    with pytest.raises(EndedBySignal), hold(stem):
        end()
    for timer in late:
        timer.join()
    assert place_of(stem).numbers() == set()


class EndedBySignal(BaseException):
    """Stands for the end of the process."""


def test_the_names_of_locks_are_known(tmp_path: Path):
    assert Path(lock_inside("out/")) == Path("out/.oddsmill-lock")
    assert lock_beside(tmp_path / "model") == f"{tmp_path}/.oddsmill-lock-of-model"
    assert is_lock(".oddsmill-lock-12")
    assert is_lock(".oddsmill-lock-of-model-1")
    assert not is_lock(".oddsmill-lock-1x")
    assert not is_lock(".oddsmill-3f-train.arrayrecord")


def test_a_lock_names_no_option_of_the_command(tmp_path: Path):
    with hold(lock_inside(tmp_path)) as held:
        assert set(json.loads(Path(held.path).read_bytes())) == set(Owner._fields)


@pytest.mark.slow
def test_googles_store_decides_who_makes_a_lock(monkeypatch: pytest.MonkeyPatch):
    fake = FakeStorage()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake.address)
    stem, owner = lock_inside("gs://bucket/out"), Owner.of_this_process("oddsmill pipeline run")
    assert place_of(stem).create(1, owner)
    assert not place_of(stem).create(1, owner)
    place_of(stem).remove(1)
    fake.objects["bucket/out/other"] = b""
    with hold(stem) as held:
        held.check()
        assert set(fake.objects) == {"bucket/out/.oddsmill-lock-1", "bucket/out/other"}
        with pytest.raises(Refused, match=LIVES), hold(stem):
            pass
        fake.objects["bucket/out/.oddsmill-lock-2"] = owner.encode()
        assert not held.is_held()
    assert set(fake.objects) == {"bucket/out/.oddsmill-lock-2", "bucket/out/other"}
    fake.close()


def test_of_a_store_that_overwrites_the_last_maker_has_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two who find no lock both write one: the first finds another's token in it, and gives way."""
    import tests.disk_store  # noqa: F401

    monkeypatch.setattr(places, "SETTLE_S", 0.05)
    stem, made = lock_inside(f"store:/{tmp_path}"), []
    create: Callable[..., bool] = places.InStore.create

    def overwritten(place: places.InStore, number: int, owner: Owner) -> bool:
        done = create(place, number, owner)
        if not made:
            made.append(leave(str(tmp_path / ".oddsmill-lock"), number, user="eve"))
        return done

    monkeypatch.setattr(places.InStore, "create", overwritten)
    with messages() as lines, hold(stem) as held:
        held.check()
    assert "of eve" in lines[0]
