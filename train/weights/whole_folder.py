"""A folder that appears under its name when all of it is written, in place of a former one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oddsmill.schemas.errors import RunFailed


@contextmanager
def whole_folder(folder: str | Path, *, is_writer: bool, what_to_do: str) -> Iterator[Path]:
    """Gives the place to write to, which becomes `folder` at the end; after an error all is as it was before.

    Args:
      is_writer: every process comes here, one writes.
      what_to_do: the end of the message where it cannot be written.

    Raises:
      RunFailed: it cannot be written.
    """
    folder = Path(folder)
    unfinished, former = (folder.with_name(folder.name + suffix) for suffix in (".unfinished", ".former"))
    try:
        if is_writer:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        yield unfinished
        if is_writer:
            shutil.rmtree(former, ignore_errors=True)
            if folder.exists():
                os.replace(folder, former)
            os.replace(unfinished, folder)
            shutil.rmtree(former, ignore_errors=True)
    except OSError as error:
        raise RunFailed(f"{folder} could not be written ({error}). {what_to_do}") from error
    finally:
        if is_writer:
            shutil.rmtree(unfinished, ignore_errors=True)
