"""Files on this machine and in stores (gs://, s3://, hf:// and whatever else fsspec knows), by one set of functions.

Both stages use it. Paths without a scheme are opened by Python itself; fsspec and the client of a store are imported
when a path first asks for them, because gcsfs and s3fs take about a second and local runs need neither.
"""

import contextlib
import functools
import glob
import hashlib
import io
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oddsmill.schemas.errors import Refused, one_line
from oddsmill.schemas.process.temporary import lasting_folder, temporary_folder

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from fsspec import AbstractFileSystem

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)://")
# How one gets the client of a store where it is not installed; fsspec itself names those of other schemes.
_INSTALL = {
    "gs": "pip install 'oddsmill[dataflow]'",
    "s3": "pip install 'oddsmill[s3]'",
    "hf": "pip install huggingface-hub",
}
# The fields under which stores report a checksum of a file's content.
_CHECKSUMS = {"blob_id": "blob", "crc32c": "checksum", "ETag": "checksum"}
_READ_BYTES = 8 << 20
_LOGIN_TIMEOUT_S = 10


def scheme_of(path: str) -> str | None:
    """Returns the part of a path before ://, for instance "gs"; None if the path has none and is local."""
    match = _SCHEME.match(path)
    return match.group(1) if match else None


def is_remote(path: str) -> bool:
    """Tells whether a path is in a store."""
    return scheme_of(path) is not None


def lies_in(path: str, folder: str) -> bool:
    """Tells whether a path leads to something inside a folder, by links too."""
    path, folder = (each.rstrip("/") if is_remote(each) else os.path.realpath(each) for each in (path, folder))
    return path.startswith(folder.rstrip("/") + "/")


@contextlib.contextmanager
def open_file(path: str) -> Iterator[io.BufferedReader]:
    """Opens a file for reading bytes; it can seek.

    Raises:
      Refused: The file cannot be opened, or the store denies a part of it later.
    """
    with refusing(path, "read"):
        if is_remote(path):
            # The files of stores are written in Python: without a buffer in front every line would cost several calls.
            store_file = _StoreFile(path, store_of(path).open(path, "rb", block_size=_READ_BYTES))
            file: io.BufferedReader = io.BufferedReader(store_file, 1 << 20)
        else:
            file = open(path, "rb")  # noqa: SIM115
    with file:
        yield file


def size_of(path: str) -> int:
    """Returns the size of a file in bytes.

    Raises:
      Refused: The file is not there, or the store does not say.
    """
    with refusing(path, "read"):
        return int(store_of(path).size(path)) if is_remote(path) else os.path.getsize(path)


def digest_of(path: str) -> str:
    """Returns what tells one state of a file from another: a store's own checksum, else the SHA-256 of the content.

    Raises:
      Refused: The file cannot be read.
    """
    if is_remote(path):
        with refusing(path, "read"):
            about = store_of(path).info(path)
        for field, prefix in _CHECKSUMS.items():
            if about.get(field):
                return f"{prefix}:{about[field]}".replace('"', "")
    with open_file(path) as file, refusing(path, "read"):
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def is_file(path: str) -> bool:
    """Tells whether there is a file at a path.

    Raises:
      Refused: The store cannot be asked.
    """
    with refusing(path, "read"):
        if not is_remote(path):
            return os.path.isfile(path)
        try:  # fsspec's `isfile` takes an access that is denied for a file that is not there
            return bool(store_of(path).info(path)["type"] == "file")
        except FileNotFoundError:
            return False


def find_matches(pattern: str) -> list[str]:
    """Returns the files that match a glob, in alphabetical order.

    Raises:
      Refused: The place cannot be listed.
    """
    with refusing(pattern, "read"):
        if not is_remote(pattern):
            return sorted(filter(os.path.isfile, glob.glob(pattern, recursive=True)))
        found = store_of(pattern).glob(pattern, detail=True)
    return _addresses(pattern, [name for name, about in found.items() if about["type"] == "file"])


def files_under(folder: str) -> list[str]:
    """Returns the names of all files below a folder, relative to it, sorted; none if there is no such folder.

    Raises:
      Refused: The store cannot be asked.
    """
    if not is_remote(folder):
        return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())
    prefix = folder.rstrip("/") + "/"
    with refusing(folder, "read"):
        try:
            found = _addresses(folder, store_of(folder).find(prefix))
        except FileNotFoundError:  # of the hub; other stores have no folders, so they list none
            return []
    return [path.removeprefix(prefix) for path in found if path.startswith(prefix)]


def fetch_folder(folder: str) -> str:
    """Returns a local folder with the files of `folder`: itself, or a copy that lasts as long as the process.

    Raises:
      Refused: A file cannot be read, its name leads out of the folder, or there is no space for the copy.
    """
    if not is_remote(folder):
        return folder
    copy = lasting_folder()
    for name in files_under(folder):
        if name == "" or name.endswith("/"):
            continue  # the mark of a folder, as some tools leave it
        if {"", ".", ".."} & set(name.split("/")):  # a store takes any name, and a disk would follow this one
            raise Refused(f"{folder} holds an object of the name {name!r}, which is no path inside a folder; remove it")
        target = os.path.join(copy, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        _download(f"{folder.rstrip('/')}/{name}", target)
    return copy


@contextlib.contextmanager
def local_file(path: str) -> Iterator[str]:
    """Yields a local path with the content of a file: the file itself, or a copy that lasts as long as the body.

    Raises:
      Refused: The file cannot be read, or there is no space for the copy.
    """
    if not is_remote(path):
        yield path
        return
    with temporary_folder() as folder:
        copy = os.path.join(folder, os.path.basename(path))
        _download(path, copy)
        yield copy


def upload(local: str, path: str) -> None:
    """Copies a local file to a store, where it appears whole or not at all.

    Raises:
      Refused: The store does not take it.
    """
    if scheme_of(path) == "hf":
        raise Refused(f"{path}: cannot be written (each file would be a commit); write to a folder and upload that")
    with refusing(path, "written"):
        # Not by `open`: fsspec commits what was written of a file even if an exception leaves the `with` block.
        store_of(path).put_file(local, path)


def remove(paths: Iterable[str]) -> None:
    """Deletes files of a store.

    Raises:
      Refused: The store does not let them go.
    """
    for path in paths:
        with refusing(path, "written"):
            store_of(path).rm_file(path)


def check_access(paths: Sequence[str], *, anonymous: bool = True) -> None:
    """Asks Google once for an access token, because its clients try for minutes where there is no answer.

    Args:
      paths: What will be read and written; nothing is asked where none of them is on gs://.
      anonymous: It may go on without credentials, which is enough where a bucket is open to all.

    Raises:
      Refused: There is no network, or no credentials, or they are not taken.
    """
    path = next((path for path in paths if scheme_of(path) == "gs"), None)
    if path is None or os.environ.get("STORAGE_EMULATOR_HOST"):
        return
    try:
        import google.auth
        from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
        from google.auth.transport.requests import Request
    except ImportError:
        return  # opening the path says what to install
    ask = functools.partial(Request(), timeout=_LOGIN_TIMEOUT_S)
    key_file = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    login = "log in by gcloud auth application-default login, or let GOOGLE_APPLICATION_CREDENTIALS name a key file"
    try:
        try:
            credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
        except DefaultCredentialsError as error:
            if key_file:
                raise Refused(f"GOOGLE_APPLICATION_CREDENTIALS={key_file}: {one_line(error)}") from error
            if not anonymous:
                raise Refused(f"there are no credentials for Google Cloud; {login}") from error
            ask("https://storage.googleapis.com/")
        else:
            credentials.refresh(ask)
    except TransportError as error:
        problem = one_line(error).rpartition(": ")[2].rstrip("'\")")
        raise Refused(f"{path}: Google Cloud cannot be reached ({problem}); is there a network?") from error
    except GoogleAuthError as error:
        raise Refused(f"{path}: Google Cloud does not take the credentials ({one_line(error)}); {login}") from error


def store_of(path: str) -> "AbstractFileSystem":
    """Returns fsspec's file system of a remote path.

    Raises:
      Refused: There is none for the scheme, or its client is not installed.
    """
    import fsspec

    scheme = scheme_of(path) or ""
    if scheme in ("file", "local"):
        raise Refused(f"{path}: write a file of this machine without {scheme}://")
    try:
        if scheme == "gs":
            return _google_storage(os.environ.get("STORAGE_EMULATOR_HOST"))
        if scheme == "hf":  # a hub path names a commit, so what was listed stays true
            return fsspec.filesystem("hf")
        # Other processes write too: a listing that is kept would hide what they wrote.
        return fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        install = _INSTALL.get(scheme) or one_line(error)
        raise Refused(f"{path}: the library for {scheme}:// is not installed: {install}") from error
    except ValueError as error:
        known = ", ".join(f"{name}://" for name in _INSTALL)
        raise Refused(f"{path}: no such file system; known are local paths, {known}") from error


@functools.cache
def _google_storage(emulator: str | None) -> "AbstractFileSystem":
    """Returns gcsfs's plain client, with credentials that were looked for once.

    Not what fsspec has under "gs": that asks over gRPC what kind a bucket is before it says that an object is not
    there, for 60 s a time where a proxy or an emulator does not speak it. And gcsfs itself would ask four places
    for credentials, in half a minute.
    """
    from gcsfs.core import GCSFileSystem

    # It logs the errors that it raises with a traceback, which Python prints where a program has set up no logging.
    logging.getLogger("gcsfs").addHandler(logging.NullHandler())
    token: object = "anon"
    if not emulator:
        import google.auth
        from google.auth.exceptions import DefaultCredentialsError

        with contextlib.suppress(DefaultCredentialsError):
            token, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/devstorage.read_write"])
    return GCSFileSystem(token=token, use_listings_cache=False, consistency="md5")


class _StoreFile(io.RawIOBase):
    """A file of a store that refuses by one message what its client raises in the middle of it."""

    def __init__(self, path: str, file: io.RawIOBase):
        self._path, self._file = path, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        with refusing(self._path, "read"):
            return self._file.readinto(buffer)


def _addresses(path: str, names: Iterable[str]) -> list[str]:
    """Returns names that a store lists, as paths that begin as `path` does, sorted."""
    return sorted(f"{scheme_of(path)}://{name.lstrip('/')}" for name in names)


def _download(path: str, target: str) -> None:
    with open_file(path) as source:
        try:
            with open(target, "wb") as file:
                shutil.copyfileobj(source, file, _READ_BYTES)
        except OSError as error:
            raise Refused(f"{target}, a copy of {path}: cannot be written ({error.strerror or error})") from error


@contextlib.contextmanager
def refusing(path: str, what: str) -> Iterator[None]:
    """Turns whatever a file system raises into a refusal that says which path cannot be read or written."""
    try:
        yield
    except Refused:
        raise
    except OSError as error:
        raise Refused(f"{path}: cannot be {what} ({error.strerror or one_line(error)})") from error
    except Exception as error:
        # Clients of stores raise classes of their own, and those of absent libraries cannot be named here.
        if not is_remote(path):
            raise
        raise Refused(f"{path}: cannot be {what} ({one_line(error)})") from error
