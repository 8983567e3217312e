"""Local files and folders: names that can be written, and names that appear only when all of them is written."""

import os
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.process.signals import on_end
from oddsmill.schemas.text.printable import printable_line

_UNFINISHED, _FORMER = ".unfinished", ".former"
_CONTROL = ("Cc", "Zl", "Zp")


def check_name(path: str, setting: str) -> None:
    """Refuses a path that no text file can hold, or no message show on its line.

    Raises:
      Refused: it is not UTF-8, or holds a control character or an end of a line.
    """
    kinds = {unicodedata.category(character) for character in path}
    if "Cs" in kinds or kinds.intersection(_CONTROL):
        problem = "is not UTF-8" if "Cs" in kinds else "holds a control character"
        raise Refused(f"--{setting}={printable_line(path)}: the name {problem}; rename it")


def check_place(path: str, setting: str, *, below: int = 0) -> None:
    """Refuses a place whose name is too long for what will be written there, before the work; stores say it themselves.

    Args:
      below: bytes of the longest path inside a folder; 0 for what is published under this name.

    Raises:
      Refused: as said, or as `check_name`.
    """
    check_name(path, setting)
    if "://" in path:
        return
    there = Path(os.path.abspath(path))
    while not _exists(there):
        there = there.parent
    longest_name, longest_path = (os.pathconf(there, limit) for limit in ("PC_NAME_MAX", "PC_PATH_MAX"))
    whole = os.fsencode(os.path.abspath(path))
    new = [os.fsencode(part) for part in Path(os.path.abspath(path)).relative_to(there).parts]
    name = max([*new, os.path.basename(whole)], key=len)
    longest_name -= 0 if below else len(_UNFINISHED)
    if len(name) > longest_name:
        problem = f"a name may have {longest_name} bytes here, and one has {len(name)}"
    elif len(whole) + 1 + below >= longest_path:
        problem = f"a path may have {longest_path - 2 - below} bytes here, and this one has {len(whole)}"
    else:
        return
    raise Refused(f"--{setting}={path}: is too long: {problem}; give a shorter one")


def check_own(path: Path, folder: Path) -> None:
    """Refuses a file of a folder that `is_own` does not hold for.

    Raises:
      Refused: as said.
    """
    if not is_own(path, folder):
        real = os.path.realpath(path)
        raise Refused(f"{path} is a link to {real}, outside {folder}; put the file itself there, if it is to be used")


def is_own(path: Path, folder: Path, *, beside: str | None = None) -> bool:
    """Tells whether a file of a folder is the folder's: a link that leads out of it may be to any file of this machine.

    The cache of the Hugging Face hub keeps the files of a `snapshots/REVISION` in `blobs` beside it; that is inside.

    Args:
      beside: the name of a file of the folder that nobody takes for another kind of file: in a folder of links to
        another folder, what lies where that lies is its own too.
    """
    real, inside = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    homes = [inside, inside.parent.parent / "blobs"] if inside.parent.name == "snapshots" else [inside]
    if beside is not None and real.parent == Path(os.path.realpath(folder / beside)).parent:
        return True
    return any(real.is_relative_to(home) for home in homes)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def check_writable(path: str | Path, what: str) -> None:
    """Looks before any work whether a file or folder can be put at `path`: the nearest folder that is there says it.

    Raises:
      Refused: nothing can be written there.
    """
    path = Path(path).absolute()
    nearest = next(parent for parent in (path, *path.parents) if os.path.lexists(parent))
    if nearest.is_file() and nearest != path:
        raise Refused(f"{what}: cannot write there ({nearest} is a file, and no folder)")
    if not os.access(nearest, os.W_OK):
        raise Refused(f"{what}: cannot write there ({nearest} is read-only, or another user's)")


@contextmanager
def publish_file(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Opens a file for writing that takes the place of `path` at the end; after an error `path` is as it was before.

    Args:
      mode: "w" for text, which is written as UTF-8, or "wb" for bytes.

    Raises:
      OSError: the file cannot be written.
    """
    unfinished = Path(f"{path}{_UNFINISHED}")
    try:
        with (
            on_end(lambda: unfinished.unlink(missing_ok=True)),
            unfinished.open(mode, encoding=None if "b" in mode else "utf-8") as file,
        ):
            yield file
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def publish_text(path: str | Path, text: str) -> None:
    """Writes a whole text file in one go, as `publish_file` does."""
    with publish_file(path) as file:
        file.write(text)


@contextmanager
def publish_folder(folder: str | Path) -> Iterator[Path]:
    """Makes an empty folder to write into, which takes the place of `folder` at the end.

    Files that stood in `folder` before are gone then; after an error `folder` is as it was before.

    Raises:
      OSError: the folder cannot be written.
    """
    folder = Path(folder)
    unfinished, former = (folder.with_name(folder.name + suffix) for suffix in (_UNFINISHED, _FORMER))
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        with on_end(lambda: shutil.rmtree(unfinished, ignore_errors=True)):
            yield unfinished
        shutil.rmtree(former, ignore_errors=True)
        if folder.exists():
            os.replace(folder, former)
        os.replace(unfinished, folder)
        shutil.rmtree(former, ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
