"""Writing to stores such as gs://, by Beam's file systems: an object appears whole when its upload ends, or not at all.

Beam is imported here, in 2.5 s, only once a path asks for it. Reading is `pipeline/filesystems.py`.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.filesystems import find_matches, is_remote, open_file
from schemas.errors import Refused

_CHUNK_BYTES = 8 << 20


def upload(local: str, path: str) -> None:
    """Copies a file of this machine to a store.

    Raises:
      Refused: the store does not take it.
    """
    with _refusing(path), open(local, "rb") as source, _file_systems().create(path, "application/octet-stream") as file:
        shutil.copyfileobj(source, file, _CHUNK_BYTES)


def files_under(folder: str) -> list[str]:
    """The names of all files below a folder of a store, relative to it; empty if there is no such folder."""
    prefix = folder.rstrip("/") + "/"
    return [path.removeprefix(prefix) for path in find_matches(prefix + "**")]


def remove(paths: Iterable[str]) -> None:
    """Deletes files of a store.

    Raises:
      Refused: the store does not let them go.
    """
    paths = list(paths)
    if paths:
        with _refusing(paths[0]):
            _file_systems().delete(paths)


def fetch_folder(folder: str) -> str:
    """A folder on this machine with the files of `folder`: itself, or a copy that lasts as long as the process."""
    if not is_remote(folder):
        return folder
    copy = tempfile.mkdtemp(prefix="oddsmill-")
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    for name in files_under(folder):
        target = os.path.join(copy, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open_file(f"{folder.rstrip('/')}/{name}") as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file, _CHUNK_BYTES)
    return copy


def _file_systems() -> Any:
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


@contextmanager
def _refusing(path: str) -> Iterator[None]:
    """Stores' clients raise classes of their own: whatever it is, the path and the message are what helps."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"{path}: cannot be written ({' '.join(str(error).split())})") from error
