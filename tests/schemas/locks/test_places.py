"""Places of locks; what runs do with them stands in test_lock.py."""

import getpass
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from oddsmill.schemas.locks.places import OnDisk, Owner, describe_age, place_of


def test_a_lock_appears_with_its_content_and_once(tmp_path: Path):
    first, second = Owner.of_this_process("one"), Owner.of_this_process("two")
    place, other = OnDisk(str(tmp_path / "lock")), OnDisk(str(tmp_path / "lock"))
    assert place.create(1, first)
    assert not other.create(1, second)
    found = other.read(1)
    assert found
    assert found.owner == first
    assert other.is_alive(1) is True
    assert os.listdir(tmp_path) == ["lock-1"]
    other.release(1, second.token)  # not its own
    assert place.numbers() == {1}
    place.release(1, first.token)
    assert (place.numbers(), place.read(1), place.is_alive(1)) == (set(), None, False)


@pytest.mark.parametrize("part", [0, 1, 0.5, -1])
@pytest.mark.parametrize("scheme", ["", "store:/"])
def test_a_lock_that_is_just_being_written_is_its_owners(tmp_path: Path, scheme: str, part: float):
    """Disks without links, and stores that are disks, show a lock before its content is there."""
    import tests.disk_store  # noqa: F401

    owner, path = Owner.of_this_process("one"), tmp_path / "lock-1"
    content = owner.encode()
    path.write_bytes(content[: int(part * len(content))] if 0 < part < 1 else content[: int(part)])
    writing = threading.Timer(0.05, path.write_bytes, (content,))
    writing.start()
    found = place_of(f"{scheme}{tmp_path}/lock").read(1)
    writing.join()
    assert found and found.owner == owner


def test_a_renewed_lock_has_another_sign(tmp_path: Path):
    place, owner = OnDisk(str(tmp_path / "lock")), Owner.of_this_process("one")
    place.create(1, owner)
    os.utime(place.path(1), (1, 1))
    before = place.read(1)
    place.renew(1, owner)
    after = place.read(1)
    assert before
    assert after
    assert before.sign != after.sign
    assert before.age > 1e6 > 10 > after.age
    place.release(1, owner.token)


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch):
    def unknown() -> Any:
        raise OSError("No username set in the environment")

    monkeypatch.setattr(getpass, "getuser", unknown)
    assert Owner.of_this_process("one").user == str(os.getuid())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 seconds"), (1, "1 seconds"), (119, "119 seconds"), (120, "2 minutes"), (7300, "2 hours"), (4e5, "5 days")],
)
def test_an_age_is_told_in_the_unit_that_suits_it(seconds: float, text: str):
    assert describe_age(seconds) == text
