"""One run at a time writes a folder: a lock with its owner and its age, on disks, network disks and in stores.

A lock is a small file `.oddsmill-lock-N` that is made on condition that there is none of its name, which file systems
and stores decide for all who ask. Whoever finds the lock N of a run that is over makes N + 1, and of several who try,
one succeeds. A run holds its lock while N is there with its token and N + 1 is not; it looks before it publishes or
deletes anything, so that a run that was paused until another took over notices, and stops.

Is the run that made a lock over? On one machine the kernel says so at once: it keeps `flock` for as long as a process
lives, however that ends. From another machine, and in a store, nobody can tell but by waiting: an owner renews its lock
every RENEW_S, and whoever wants it watches for STALE_S, by no clock but its own, whether it is renewed.
"""

import contextlib
import re
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from oddsmill.schemas.console import log
from oddsmill.schemas.errors import Refused, RunFailed, one_line
from oddsmill.schemas.locks.places import Found, InStore, OnDisk, Owner, boot_id, place_of
from oddsmill.schemas.process.signals import on_end

LOCK_NAME = ".oddsmill-lock"
RENEW_S = 15.0
STALE_S = 90.0
# A lock that was not renewed for so long is stale by any clock: nobody watches it.
FORGOTTEN_S = 3600.0
_ATTEMPTS = 20
_ON_ITS_WAY_S, _PATIENCE_S = 1.0, 5.0


def lock_inside(folder: str | Path) -> str:
    """Returns the path of the lock of a folder that is filled in place; a number follows it."""
    return f"{str(folder).rstrip('/')}/{LOCK_NAME}"


def lock_beside(folder: str | Path) -> str:
    """Returns the path of the lock of a folder that appears whole, which holds no lock; a number follows it."""
    folder = Path(folder).absolute()
    return str(folder.with_name(f"{LOCK_NAME}-of-{folder.name}"))


def is_lock(name: str) -> bool:
    """Tells whether a file's name is that of a lock."""
    return re.fullmatch(rf"{re.escape(LOCK_NAME)}(-of-.+)?-\d+", name) is not None


@dataclass(frozen=True)
class Lock:
    """A lock that a run holds. It is plain values: workers get it, and look themselves.

    Attributes:
      what: The setting that names the folder, for messages: "--output=out".
    """

    path: str
    token: str
    what: str

    def check(self) -> None:
        """Comes before anything is published or deleted.

        Raises:
          RunFailed: Another run has taken the lock, somebody has removed it, or it cannot be read.
        """
        problem = self._problem()
        if problem:
            raise RunFailed(
                f"{self.what} is no longer this run's: {problem}. This run stops, and leaves there what is there now"
            )

    def is_held(self) -> bool:
        """Tells whether the run still holds the lock, as far as it can be read."""
        return self._problem() is None

    def _problem(self) -> str | None:
        stem, _, digits = self.path.rpartition("-")
        place, number = place_of(stem), int(digits)
        try:
            found = place.read(number)
            if found and found.owner.token == self.token and place.read(number + 1) is None:
                return None
            newest = max(place.numbers(), default=0)
            found = place.read(newest) if newest else None
        except (OSError, Refused) as error:
            return f"{self.path} cannot be read ({one_line(error)})"
        return f"{found.owner.describe()} has taken it over" if found else f"its lock {self.path} was removed"


@contextlib.contextmanager
def locked(stem: str, *, what: str, command: str) -> Iterator[Lock]:
    """Holds the lock of a folder while the body runs.

    Args:
      stem: `lock_inside` or `lock_beside` of the folder. The folder that holds the lock exists, or is in a store.
      what: The setting that names the folder, for messages: "--output=out".
      command: What the run is, for those who find its lock: "oddsmill pipeline run".

    Raises:
      Refused: Another run holds it; the message says who, and for how long. Or it cannot be written.
    """
    claim = _Claim(place_of(stem), Owner.of_this_process(command))
    with on_end(lambda: claim.give_up(_PATIENCE_S)):
        try:
            number = _take(claim, what)
            claim.start_renewing(what)
            yield Lock(claim.place.path(number), claim.owner.token, what)
        finally:
            claim.give_up()


class _Claim:
    """A run gets, keeps and releases a lock by this; a signal may end the run at any moment of it."""

    def __init__(self, place: "OnDisk | InStore", owner: Owner):
        self.place, self.owner = place, owner
        self._numbers: list[int] = []
        self._is_asking = False
        self._over = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)

    def create(self, number: int) -> bool:
        """Makes a lock; returns False where there is one of this number."""
        self._numbers.append(number)
        self._is_asking = True
        try:
            return self.place.create(number, self.owner)
        finally:
            self._is_asking = False

    def start_renewing(self, what: str) -> None:
        """Renews the newest lock until it is given up.

        Raises:
          Refused: No thread can be started.
        """
        try:
            self._renewing.start()
        except RuntimeError as error:
            problem = f"no thread can be started ({one_line(error)}); raise the limit (ulimit -u)"
            raise Refused(f"{what}: {problem}") from error

    def give_up(self, patience_s: float | None = None) -> None:
        """Removes the locks that are the run's.

        Args:
          patience_s: How long it waits for a renewal that is under way; None: to its end.
        """
        self._over.set()
        if self._renewing.ident is not None:
            self._renewing.join(patience_s)  # it would write again a lock that it has just found
        if self._is_asking:
            time.sleep(_ON_ITS_WAY_S)  # the store makes a lock that was asked for before the signal came
        for number in reversed(self._numbers):
            self.place.release(number, self.owner.token)

    def _renew(self) -> None:
        while not self._over.wait(RENEW_S):
            with contextlib.suppress(Exception):  # the next time succeeds, or `check` finds the lock lost
                self.place.renew(self._numbers[-1], self.owner)


def _take(claim: _Claim, what: str) -> int:
    """Makes the lock after the newest one, once the owner of that is over; returns its number.

    Raises:
      Refused: Another run holds the lock, or it cannot be written.
    """
    try:
        return _take_next(claim, what)
    except OSError as error:
        raise Refused(f"{what}: cannot write there ({error.strerror or one_line(error)})") from error


def _take_next(claim: _Claim, what: str) -> int:
    place, owner = claim.place, claim.owner
    for _ in range(_ATTEMPTS):
        numbers = place.numbers()
        newest = max(numbers, default=0)
        found = place.read(newest) if newest else None
        if newest and found is None:
            continue  # it was released meanwhile
        if found:
            _wait_for_end(place, newest, found, what)
        number = newest + 1
        if not claim.create(number):
            continue
        after, mine = place.read(newest) if found else None, place.read(number)
        kept = found is None or after is None or (after.sign, after.owner) == (found.sign, found.owner)
        if kept and mine and mine.owner.token == owner.token and place.numbers() <= numbers | {number}:
            for old in numbers:
                place.remove(old)
            if found:
                log.info(f"note       {what}: {found.owner.describe()} did not come to its end; its lock is taken over")
            return number
        place.release(number, owner.token)
        time.sleep(secrets.randbelow(1000) / 1000)  # two that give way to each other do not meet again
    raise Refused(f"{what}: its lock changes hands all the time; are several runs started into it?")


def _wait_for_end(place: "OnDisk | InStore", number: int, found: Found, what: str) -> None:
    """Returns once the owner of a lock is known to be over.

    Raises:
      Refused: It is not.
    """
    alive = place.is_alive(number)
    began, told = time.monotonic(), False
    while alive is None or (alive is False and found.owner.boot != boot_id()):
        if found.age > FORGOTTEN_S or time.monotonic() - began > STALE_S:
            return
        if not told:
            log.info(f"note       {what}: {found.owner.describe()} has its lock; waiting up to {STALE_S:.0f} s to see "
                     "whether it lives")  # fmt: skip
            told = True
        time.sleep(min(1.0, STALE_S / 10))
        now = place.read(number)
        if now is None or now.owner.token != found.owner.token:
            return  # it was released: whoever wants it tries again
        alive = True if now.sign != found.sign else place.is_alive(number)
    if alive:
        raise Refused(
            f"{what}: {found.owner.describe()} is writing there; wait for its end, stop it, or give another folder"
        )
