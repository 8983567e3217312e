"""The end of a process that is one command: with its exit code, and without the interpreter's own teardown.

While Python takes itself apart it ends every thread that comes back from a library of C++ by unwinding its stack, which
many destructors there do not allow: a command that was done and had said so would abort, with exit code 134.
"""

import atexit
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from oddsmill.schemas.process.signals import start_watching


def run_process(command: Callable[[], int]) -> int:
    """Runs all that this process is for, and takes its signals; returns its exit code, which is for `sys.exit`.

    Whatever was registered with `atexit` since is still called, and threads that are no daemons are waited for.
    """
    code = 1  # of an error that nobody expects: Python prints its traceback before it calls `leave`

    def leave() -> None:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # closed, or nobody reads it any more
                stream.flush()
        os._exit(code)

    start_watching()
    atexit.register(leave)  # what is registered first is called last
    try:
        code = command()
    except SystemExit as ended:  # the settings library ends so after --help
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise
    return code
