"""The standard streams of a command: closed, full, on a terminal that is gone, or read by somebody who has left."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

OUTPUT = "the standard output"


def open_closed_streams() -> None:
    """Gives the numbers 0, 1 and 2 to streams that the caller of the command has closed.

    Otherwise the next file that is opened gets them, and what a library of C++ prints ends up in that file. A closed
    standard output stays one that cannot be written; what is written to a closed standard error is lost.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def drop_output() -> None:
    """Lets what is left of the standard output go to nobody: Python would fail on it once more at its end."""
    with suppress(OSError, ValueError):
        number = os.open(os.devnull, os.O_WRONLY)
        os.dup2(number, sys.stdout.fileno())
        os.close(number)


class _Stream:
    """A text stream whose errors have a name, or are none where it may be lost; else the one that it stands for."""

    def __init__(self, stream: IO[str], name: str, *, may_be_lost: bool):
        self._stream, self._name, self._may_be_lost = stream, name, may_be_lost

    def write(self, text: str) -> int:
        with self._errors():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._errors():
            self._stream.flush()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._may_be_lost:
                error.filename = self._name
                raise
        except ValueError:  # somebody has closed it
            if not self._may_be_lost:
                raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def output_has_a_name() -> Iterator[None]:
    """While the body runs, an error of the standard output says that it is one, by its `filename`."""
    before = sys.stdout
    sys.stdout = _Stream(before, OUTPUT, may_be_lost=False)
    try:
        yield
    finally:
        sys.stdout = before


@contextmanager
def console_may_be_lost() -> Iterator[None]:
    """While the body runs, messages that no console takes are lost, and nothing fails for it.

    It is for work whose results are files: a terminal that is closed, a reader that has left or a full disk below a log
    must not end it.
    """
    before = sys.stdout, sys.stderr
    sys.stdout = _Stream(before[0], OUTPUT, may_be_lost=True)
    sys.stderr = _Stream(before[1], "the standard error", may_be_lost=True)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
