"""The places of locks, on disks and in stores: either makes a file only where there is none of its name."""

import contextlib
import errno
import fcntl
import getpass
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Hashable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.stores import is_remote, refusing, scheme_of, store_of
from oddsmill.schemas.text.printable import printable

# These stores decide by themselves who makes a file first. Of others some overwrite what another has just made: there
# the lock is looked at once more, after a while.
_DECIDING = ("gs", "gcs", "memory")
SETTLE_S = 1.0
_LOOKS, _LOOKS_AFTER_S = 5, 0.1
# The errors of file systems where a file has one name alone.
_NO_LINKS = (errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


class Owner(NamedTuple):
    """The content of a lock: who made it, where and when."""

    command: str
    user: str
    host: str
    boot: str
    pid: int
    since: float
    renewed: float
    token: str

    @classmethod
    def of_this_process(cls, command: str) -> "Owner":
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # of a container without a table of users
            user = str(os.getuid())
        now, token = time.time(), secrets.token_hex(16)
        return cls(command, user, socket.gethostname(), boot_id(), os.getpid(), now, now, token)

    @classmethod
    def parse(cls, content: bytes) -> "Owner":
        """Reads the content of a lock, which may be no lock of ours: what cannot be read is unknown."""
        unknown = cls("a command", "somebody", "an unknown machine", "", 0, 0.0, 0.0, "")._asdict()
        found: dict[str, Any] = {}
        with contextlib.suppress(ValueError, RecursionError):
            loaded = json.loads(content[:10_000])
            found = loaded if isinstance(loaded, dict) else {}
        for name, default in unknown.items():
            value = found.get(name)
            if type(value) is type(default) and (not isinstance(value, float) or 0 < value < 1e11):
                unknown[name] = printable(value)[:200] if isinstance(value, str) else value
        return cls(**unknown)

    def encode(self) -> bytes:
        return json.dumps(self._asdict()).encode()

    def describe(self) -> str:
        since = ""
        if self.since:
            clock = f"{datetime.fromtimestamp(self.since, UTC):%Y-%m-%d %H:%M:%S} UTC"
            since = f", begun {clock} ({describe_age(time.time() - self.since)} ago)"
        return f"{self.command} of {self.user} (process {self.pid} on {self.host}{since})"


class Found(NamedTuple):
    """A lock as it was found.

    Attributes:
      sign: Differs whenever the lock was renewed.
      age: Seconds since it was, by clocks that may differ.
    """

    owner: Owner
    sign: Hashable
    age: float


class OnDisk:
    """Locks in a folder of this machine's file system, which other machines may have mounted too."""

    def __init__(self, stem: str):
        self._stem, self._descriptor = stem, -1

    def path(self, number: int) -> str:
        return f"{self._stem}-{number}"

    def numbers(self) -> set[int]:
        folder, name = os.path.split(self._stem)
        return _numbers(os.listdir(folder), name)

    def read(self, number: int) -> Found | None:
        return _once_written(lambda: self._look(number))

    def _look(self, number: int) -> Found | None:
        try:
            # Opened and not only looked at: a network file system asks its server anew.
            with open(self.path(number), "rb") as file:
                about = os.fstat(file.fileno())
                return Found(Owner.parse(file.read()), about.st_mtime_ns, time.time() - about.st_mtime)
        except FileNotFoundError:
            return None

    def create(self, number: int, owner: Owner) -> bool:
        unseen = f"{self._stem}.{owner.token}"
        descriptor = os.open(unseen, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            with contextlib.suppress(OSError):  # not every network file system has it
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(descriptor, owner.encode())
            os.link(unseen, self.path(number))  # it appears with its content, and locked
            self._descriptor, descriptor = descriptor, -1
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return self._create_in_place(number, owner)
        finally:
            os.unlink(unseen)
            if descriptor >= 0:
                os.close(descriptor)
        return True

    def _create_in_place(self, number: int, owner: Owner) -> bool:
        """Makes a lock where files have one name each, as on exFAT."""
        try:
            self._descriptor = os.open(self.path(number), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        with contextlib.suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(self._descriptor, owner.encode())
        return True

    def renew(self, number: int, owner: Owner) -> None:
        os.utime(self._descriptor)

    def is_alive(self, number: int) -> bool | None:
        """Tells what the kernel knows of the owner; None where it keeps no locks."""
        try:
            with open(self.path(number), "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        except OSError:
            return None
        return False

    def remove(self, number: int) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.path(number))

    def release(self, number: int, token: str) -> None:
        with contextlib.suppress(OSError):
            found = self.read(number)
            if found and found.owner.token == token:
                self.remove(number)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class InStore:
    """Locks in a store of objects."""

    def __init__(self, stem: str):
        self._stem, self._store = stem, store_of(stem)

    def path(self, number: int) -> str:
        return f"{self._stem}-{number}"

    def numbers(self) -> set[int]:
        folder, _, name = self._stem.rpartition("/")
        with refusing(self._stem, "read"):
            try:
                found = self._store.find(folder, prefix=name)
            except FileNotFoundError:
                return set()
        return _numbers((path.rpartition("/")[2] for path in found), name)

    def read(self, number: int) -> Found | None:
        return _once_written(lambda: self._look(number))

    def _look(self, number: int) -> Found | None:
        with refusing(self.path(number), "read"):
            try:
                content = self._store.cat_file(self.path(number))
            except FileNotFoundError:
                return None
        values = Owner.parse(content)
        return Found(values, content, time.time() - values.renewed)

    def create(self, number: int, owner: Owner) -> bool:
        path = self.path(number)
        if scheme_of(path) == "hf":
            raise Refused(f"{path}: cannot be written (each file would be a commit); write to a folder and upload that")
        with refusing(path, "written"):
            try:
                self._store.pipe_file(path, owner.encode(), mode="create")
            except FileExistsError:
                return False
            except Exception as error:
                if "notimplemented" not in str(error).lower().replace(" ", ""):
                    raise
                self._store.pipe_file(path, owner.encode())  # a store like S3 that knows no conditions
        if scheme_of(path) not in _DECIDING:
            time.sleep(SETTLE_S)
        return True

    def renew(self, number: int, owner: Owner) -> None:
        """Writes the lock anew, unless it is lost: another may have removed it meanwhile."""
        found = self.read(number)
        if found and found.owner.token == owner.token and self.read(number + 1) is None:
            self._store.pipe_file(self.path(number), owner._replace(renewed=time.time()).encode())

    def is_alive(self, number: int) -> bool | None:
        """Tells nothing: a store does not know its clients."""
        return None

    def remove(self, number: int) -> None:
        with contextlib.suppress(Exception):
            self._store.rm_file(self.path(number))

    def release(self, number: int, token: str) -> None:
        with contextlib.suppress(Refused):
            found = self.read(number)
            if found and found.owner.token == token:
                self.remove(number)


def _once_written(look: Callable[[], Found | None]) -> Found | None:
    """Looks at a lock once more while it names no owner: some disks and stores show it before it is written whole."""
    found = look()
    for _ in range(_LOOKS):
        if found is None or found.owner.token:
            break
        time.sleep(_LOOKS_AFTER_S)
        found = look()
    return found


def place_of(stem: str) -> OnDisk | InStore:
    """Returns where the locks of a path lie, without their numbers."""
    return InStore(stem) if is_remote(stem) else OnDisk(stem)


def boot_id() -> str:
    """Returns what tells this machine, since it was started, from all others; containers on it have the same."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def describe_age(seconds: float) -> str:
    """Returns a time in the unit that suits it, such as "12 minutes"."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} seconds"


def _numbers(names: Iterable[str], stem: str) -> set[int]:
    found = (re.fullmatch(rf"{re.escape(stem)}-(\d{{1,9}})", name) for name in names)
    return {int(match.group(1)) for match in found if match}
