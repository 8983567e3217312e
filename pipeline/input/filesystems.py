"""Reading files wherever they lie: this machine's disk, gs:// and s3:// by Beam, hf:// by huggingface_hub.

Beam's own file systems, because a worker on Dataflow has their libraries anyway. They are imported, in 2.5 s,
only once a path asks for them.
"""

import contextlib
import functools
import glob
import hashlib
import importlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, cast

from oddsmill.schemas.errors import Refused

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)://")
# What a scheme needs beyond the extra [pipeline], and how one gets it.
_LIBRARIES = {
    "gs": ("google.cloud.storage", "pip install 'oddsmill[dataflow]'"),
    "s3": ("boto3", "pip install 'apache-beam[aws]'"),
}
_HUB = "hf"
_PATIENCE_S = 10


def scheme_of(path: str) -> str | None:
    """The part of a remote path before ://, as "gs"; None if the path is of this machine."""
    match = _SCHEME.match(path)
    return match.group(1) if match else None


def is_remote(path: str) -> bool:
    return scheme_of(path) is not None


@contextlib.contextmanager
def open_file(path: str) -> Iterator[BinaryIO]:
    """A file, open for reading bytes; it can seek.

    Raises:
      Refused: the file cannot be opened.
    """
    with _refusing(path):
        if not is_remote(path):
            file = open(path, "rb")  # noqa: SIM115
        elif scheme_of(path) == _HUB:
            file = _hub().open(path, "rb", block_size=8 << 20)
        else:
            from apache_beam.io.filesystem import CompressionTypes

            file = _beam(path).open(path, compression_type=CompressionTypes.UNCOMPRESSED)
    with file:
        # The clients of stores read a line byte by byte unless there is a buffer before them.
        yield cast(BinaryIO, io.BufferedReader(file, 1 << 20) if is_remote(path) else file)


def check_access(paths: Sequence[str], *, anonymous: bool = True) -> None:
    """Asks Google once, before its clients do, which try again for minutes where there is no answer.

    Args:
      paths: nothing is asked where none of them is on gs://.
      anonymous: whether it may go on without credentials, as it can where a bucket is open to all.

    Raises:
      Refused: there is no network, or no credentials, or they are not taken.
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
    ask = functools.partial(Request(), timeout=_PATIENCE_S)
    key_file = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    login = "log in by gcloud auth application-default login, or let GOOGLE_APPLICATION_CREDENTIALS name a key file"
    try:
        try:
            credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
        except DefaultCredentialsError as error:
            if key_file:
                raise Refused(f"GOOGLE_APPLICATION_CREDENTIALS={key_file}: {_one_line(error)}") from error
            if not anonymous:
                raise Refused(f"there are no credentials for Google Cloud; {login}") from error
            ask("https://storage.googleapis.com/")
        else:
            credentials.refresh(ask)
    except TransportError as error:
        problem = _one_line(error).rpartition(": ")[2].rstrip("'\")")
        raise Refused(f"{path}: Google Cloud cannot be reached ({problem}); is there a network?") from error
    except GoogleAuthError as error:
        raise Refused(f"{path}: Google Cloud does not take the credentials ({_one_line(error)}); {login}") from error


def size_of(path: str) -> int:
    """Bytes of a file.

    Raises:
      Refused: it is not there, or cannot be asked.
    """
    with _refusing(path):
        if not is_remote(path):
            return os.path.getsize(path)
        return int(_hub().info(path)["size"] if scheme_of(path) == _HUB else _beam(path).size(path))


def digest_of(path: str) -> str:
    """What tells one state of a file from another: sha256 on this machine, the store's own checksum elsewhere.

    Raises:
      Refused: it cannot be read.
    """
    with _refusing(path):
        if not is_remote(path):
            with open(path, "rb") as file:
                return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        if scheme_of(path) == _HUB:
            return f"blob:{_hub().info(path)['blob_id']}"
        return f"checksum:{_beam(path).checksum(path)}"


def is_file(path: str) -> bool:
    with _refusing(path):
        if not is_remote(path):
            return os.path.isfile(path)
        return bool(_hub().isfile(path)) if scheme_of(path) == _HUB else bool(_beam(path).exists(path))


def find_matches(pattern: str) -> list[str]:
    """The files that a glob names, in alphabetical order.

    Raises:
      Refused: the place cannot be listed.
    """
    with _refusing(pattern):
        if not is_remote(pattern):
            return sorted(filter(os.path.isfile, glob.glob(pattern, recursive=True)))
        if scheme_of(pattern) == _HUB:
            return sorted(f"hf://{path}" for path in _hub().glob(pattern))
        (match,) = _beam(pattern).match([pattern])
        return sorted(str(metadata.path) for metadata in match.metadata_list)


def _beam(path: str) -> Any:
    """Beam's file system of a path.

    Raises:
      Refused: Beam knows none for the scheme, or the scheme's library is not installed.
    """
    scheme = scheme_of(path) or ""
    module, install = _LIBRARIES.get(scheme, ("apache_beam", ""))
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise Refused(f"{path}: the library for {scheme}:// is not installed: {install}") from error
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions

    if FileSystems._pipeline_options is None:  # s3:// asks for some; a runner sets its own
        FileSystems.set_options(PipelineOptions([]))
    try:
        return FileSystems.get_filesystem(path)
    except ValueError as error:
        known = ", ".join(f"{name}://" for name in _LIBRARIES)
        raise Refused(f"{path}: no such file system; known are local paths, hf://, {known}") from error


def _hub() -> Any:
    from huggingface_hub import HfFileSystem

    return HfFileSystem()


@contextlib.contextmanager
def _refusing(path: str) -> Iterator[None]:
    """Turns whatever a file system raises into a refusal that names the path."""
    try:
        yield
    except Refused:
        raise
    except OSError as error:
        raise Refused(f"{path}: cannot be read ({error.strerror or _one_line(error)})") from error
    except Exception as error:
        # Clients of stores raise classes of their own, and those of absent libraries cannot be named here.
        if not is_remote(path):
            raise
        raise Refused(f"{path}: cannot be read ({_one_line(error)})") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
