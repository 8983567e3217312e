"""Whole files to and from stores such as gs://, by Beam's file systems: what is uploaded appears whole, or not at all.

Beam is imported here, in 2.5 s, only once a path asks for it. Reading is `pipeline/input/filesystems.py`.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from oddsmill.pipeline.input.filesystems import find_matches, is_remote, open_file
from oddsmill.schemas.errors import Refused

_CHUNK_BYTES = 8 << 20


def upload(local: str, path: str) -> None:
    """Copies a file of this machine to a store.

    Raises:
      Refused: the store does not take it.
    """
    with _refusing(path), open(local, "rb") as source, _file_systems().create(path, "application/octet-stream") as file:
        shutil.copyfileobj(source, file, _CHUNK_BYTES)


def files_under(folder: str) -> list[str]:
    """The names of all files below a folder, relative to it, in order; none if there is no such folder."""
    if not is_remote(folder):
        return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())
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
        _download(f"{folder.rstrip('/')}/{name}", target)
    return copy


@contextmanager
def local_file(path: str) -> Iterator[str]:
    """A path on this machine with the content of a file: the file itself, or a copy that lasts as long as the body.

    Raises:
      Refused: it cannot be read, or there is no space for the copy.
    """
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="oddsmill-") as folder:
        copy = os.path.join(folder, os.path.basename(path))
        _download(path, copy)
        yield copy


def _download(path: str, target: str) -> None:
    with open_file(path) as source:
        try:
            with open(target, "wb") as file:
                shutil.copyfileobj(source, file, _CHUNK_BYTES)
        except OSError as error:
            raise Refused(f"{target}, a copy of {path}: cannot be written ({error.strerror or error})") from error


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
