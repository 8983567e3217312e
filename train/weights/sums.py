"""Keeps the digests of the files of a folder beside them; `sha256sum --check oddsmill.sha256` reads them.

safetensors have no digest of their own, and one altered byte of a weight or of a config.json makes another model.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.files import publish_text
from oddsmill.schemas.manifest import file_sha256

SUMS_FILE = "oddsmill.sha256"  # not SHA256SUMS: a folder of somebody else's may hold that, of any form and age
_LARGEST_BYTES = 1 << 20


def write_sums(folder: Path, files: Iterable[Path]) -> None:
    """Writes the digests of files of a folder, which it reads once more.

    Raises:
      OSError: a file cannot be read, or the digests cannot be written.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    lines = [f"{digest}  {name}\n" for name, digest in zip(names, _digests(folder, names), strict=True)]
    publish_text(folder / SUMS_FILE, "".join(lines))


def check_sums(folder: Path, *, remedy: str, is_read: Callable[[str], bool] = lambda name: True) -> None:
    """Refuses a folder of which a file is not the one whose digest was written; one without digests is not checked.

    Args:
      remedy: what to do, for the message.
      is_read: tells of the name of a file whether it is checked.

    Raises:
      Refused: files are altered or gone, all of them named at once, or the digests are damaged.
    """
    path = folder / SUMS_FILE
    if not path.is_file():
        return
    try:
        expected = {name: digest for name, digest in _read(path).items() if is_read(name)}
        found = _digests(folder, expected)
    except (OSError, ValueError) as error:
        raise Refused(f"{path} is damaged ({error}). {remedy}; or remove {SUMS_FILE}") from error
    altered = [name for name, digest in zip(expected, found, strict=True) if digest != expected[name]]
    if altered:
        raise Refused(
            f"{folder}: altered or gone since {SUMS_FILE} was written beside them: {', '.join(altered)}. {remedy}; "
            f"if the change is yours, remove {SUMS_FILE}"
        )


def _read(path: Path) -> dict[str, str]:
    if path.stat().st_size > _LARGEST_BYTES:
        raise ValueError("too large")
    digests = {}
    *lines, end = path.read_text(encoding="utf-8").split("\n")
    if end:
        raise ValueError("cut short")
    for line in lines:
        digest, name = line.split("  ", 1)
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"{name!r} is no file of this folder")
        digests[name] = digest
    return digests


def _digests(folder: Path, names: Iterable[str]) -> list[str | None]:
    """Returns the digest of each file; None where there is none."""

    def digest(name: str) -> str | None:
        path = folder / name
        return file_sha256(path) if path.is_file() else None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:  # hashing leaves Python's lock
        return list(threads.map(digest, names))
