"""Messages to the user of both stages: Python's logging, under the one logger `oddsmill`.

A library is quiet: nothing is shown until a command line, or a script, calls `show_messages` or configures logging in
its own way.
"""

import contextlib
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from typing import Literal, TextIO

from oddsmill.schemas.text.printable import printable, printable_message
from oddsmill.schemas.text.redaction import redact_text

LogLevel = Literal["debug", "info", "warning", "error"]

log = logging.getLogger("oddsmill")
log.addHandler(logging.NullHandler())


class _ConsoleHandler(logging.Handler):
    """Writes messages to the standard output, or the standard error, of the moment, which may have been redirected."""

    def __init__(self, *, to_stderr: bool):
        super().__init__()
        self._to_stderr = to_stderr

    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        message = printable_message(prefix + record.getMessage())
        print(message, file=sys.stderr if self._to_stderr else sys.stdout, flush=True)


def show_messages(level: LogLevel = "info", *, to_stderr: bool = False) -> None:
    """Shows messages of `level` and above on the console, warnings and errors with their level in front.

    From now on tracebacks and the warnings of Python show what they quote too, and send it to no terminal.

    Args:
      to_stderr: for commands whose standard output is a result that another program reads.
    """
    for handler in [handler for handler in log.handlers if isinstance(handler, _ConsoleHandler)]:
        log.removeHandler(handler)
    log.addHandler(_ConsoleHandler(to_stderr=to_stderr))
    log.propagate = False  # a library that configures the root logger would show every message once more
    log.setLevel(level.upper())
    sys.excepthook = lambda kind, error, trace: _show_traceback(error)
    threading.excepthook = lambda failed: _show_traceback(failed.exc_value)
    warnings.showwarning = _show_warning


def _show_traceback(error: BaseException | None) -> None:
    """Shows a defect as Python does, but for what a terminal would obey: its message may quote rows."""
    if error is not None and not isinstance(error, SystemExit):
        print(printable(redact_text("".join(traceback.format_exception(error)))), file=sys.stderr, end="")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(
        printable(redact_text(warnings.formatwarning(message, category, filename, lineno, line))),
        file=file or sys.stderr,
        end="",
    )


@contextlib.contextmanager
def held_back(library: str, *, below: LogLevel | Literal["critical"] = "critical") -> Iterator[None]:
    """Holds back a library's messages while the body runs, where what matters of them is in the exception it ends with.

    Args:
      library: the name of its logger; loggers below that one, which have no level of their own, are held back too.
      below: messages of this level and above pass.
    """
    logger = logging.getLogger(library)
    before = logger.level
    logger.setLevel(below.upper())
    try:
        yield
    finally:
        logger.setLevel(before)
