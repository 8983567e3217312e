"""Local files and folders that appear under their name only when all of them is written."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_UNFINISHED, _FORMER = ".unfinished", ".former"


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
        with unfinished.open(mode, encoding=None if "b" in mode else "utf-8") as file:
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
        yield unfinished
        shutil.rmtree(former, ignore_errors=True)
        if folder.exists():
            os.replace(folder, former)
        os.replace(unfinished, folder)
        shutil.rmtree(former, ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
