"""A place that a run writes to and that fails ends the run, with one message that names it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from oddsmill.schemas.errors import Refused, RunFailed, Stopped, one_line

_GO_ON = "The newest checkpoint is kept, and the same command goes on from it"


@contextmanager
def explain_write_errors(path: Path, *, advice: str = "make room, or make it writable again") -> Iterator[None]:
    """Turns whatever a writer meets, its own libraries' errors included, into the one message that ends a run.

    Args:
      path: the file or folder that is written.
      advice: tells what to do.

    Raises:
      RunFailed: the body failed; it names the path and the reason.
    """
    try:
        yield
    except (Refused, RunFailed, Stopped):
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise RunFailed(f"{path} cannot be written ({reason}); {advice}. {_GO_ON}") from error


def write_whole(file: IO[bytes], content: bytes) -> None:
    """Writes to a file that has no buffer: a disk that is almost full takes a part of it first, then none.

    Raises:
      OSError: it cannot be written.
    """
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
