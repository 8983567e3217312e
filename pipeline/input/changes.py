"""Input that changes while it is read: what was found at the start is compared with what is there after the reading."""

import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import NamedTuple

from oddsmill.schemas.errors import Refused, RunFailed
from oddsmill.schemas.stores import digest_of, is_remote, refusing, scheme_of, store_of

# The fields by which stores tell one state of a file from another, those of its content first; each has some of them.
_STATE_FIELDS = ("crc32c", "md5Hash", "ETag", "blob_id", "content_md5", "etag", "generation", "version_id")
_TIME_FIELDS = ("updated", "LastModified", "last_modified", "mtime", "created")
_OF_A_COMMIT = re.compile("@[0-9a-f]{40}/")


class FileState(NamedTuple):
    """A file as it was at the start.

    Attributes:
      content: The size, or what a store says of the content: another one is another content.
      place: What may differ though the content is the same, since somebody touched, copied or renamed the file or
        changed its rights: then the digest decides. Empty for a store.
      digest: As `digest_of` returns it.
    """

    content: tuple[str, ...]
    place: tuple[int, ...]
    digest: str


def state_of(path: str) -> FileState:
    """Returns the state of a file, looked at before its content is read.

    Raises:
      Refused: It cannot be read.
    """
    try:
        content, place = _look(path)
    except OSError as error:
        raise Refused(f"{path}: cannot be read ({error.strerror or error})") from error
    return FileState(content, place, digest_of(path))


def change_of(path: str, state: FileState) -> str | None:
    """Returns how a file differs from what it was, in words for people; None where it does not.

    Raises:
      Refused: A store cannot be asked.
    """
    if scheme_of(path) == "hf" and _OF_A_COMMIT.search(path):
        return None
    try:
        content, place = _look(path)
        if content != state.content:
            return f"it was {' '.join(state.content)}, it is {' '.join(content)}"
        if place != state.place and _digest_of(path, place) != state.digest:
            return "its content is another one"
    except FileNotFoundError:
        return "it is gone"
    except OSError as error:
        return f"it cannot be read any more ({error.strerror or error})"
    return None


def check_unchanged(states: Mapping[str, FileState]) -> None:
    """Fails the run if a file that was read is no longer what it was; `states` are by path.

    Raises:
      RunFailed: Names the first such file.
    """
    with ThreadPoolExecutor(8) as pool:  # a store takes a while for each answer
        for path, change in zip(states, pool.map(change_of, states, states.values()), strict=True):
            if change:
                raise changed(path, change)


@contextmanager
def while_unchanged(path: str, states: Mapping[str, FileState]) -> Iterator[Callable[[], bool]]:
    """Holds the reading of one file: a local one is looked at before and after; any, where reading it fails.

    Yields a function that tells whether somebody has touched a local file meanwhile that is what it was before and
    after: whoever writes it anew in place leaves it cut for a moment, so what was read is to be compared.

    Raises:
      RunFailed: It has changed since the start.
    """
    state = states.get(path)

    def check() -> None:
        if state and (change := change_of(path, state)):
            raise changed(path, change)

    is_local = state is not None and not is_remote(path)
    if is_local:
        check()
        before = _look(path)

    def was_touched() -> bool:
        check()
        return is_local and _look(path) != before

    try:
        yield was_touched
    except Refused:
        check()  # a file that is cut while it is read looks damaged
        raise
    if is_local:
        check()


def changed(path: str, change: str) -> RunFailed:
    """Returns the failure of a run whose input has changed."""
    return RunFailed(
        f"{path} changed while it was read: {change}. Nothing was made of it; run again when nobody writes the input"
    )


def _look(path: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    if not is_remote(path):
        about = os.stat(path)
        return (f"{about.st_size:,} bytes",), (about.st_ino, about.st_mtime_ns, about.st_ctime_ns)
    found = None
    with refusing(path, "read"), suppress(FileNotFoundError):
        found = store_of(path).info(path)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    told = next((name for name in (*_STATE_FIELDS, *_TIME_FIELDS) if found.get(name)), None)
    return (f"{found.get('size')} bytes", *([f"of {told} {found[told]}"] if told else [])), ()


@lru_cache(maxsize=1024)
def _digest_of(path: str, place: tuple[int, ...]) -> str:
    """Returns the digest of a file, which is read once for each `place`: many parts ask for it."""
    return digest_of(path)
