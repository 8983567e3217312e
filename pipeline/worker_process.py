"""A worker process of Beam's embedded runner, which ends with the run that has started it.

Beam's own worker waits for more than a minute for a run that was killed, or that a signal ended while it started.
"""

import os
import shlex
import signal
import sys

from oddsmill.schemas.process.children import end_with
from oddsmill.schemas.process.signals import ENDING


def worker_command() -> str:
    """Returns the command of a shell that becomes a worker of this process."""
    return f"exec {shlex.quote(sys.executable)} -m {__name__} {os.getpid()}"


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    for number in ENDING:  # a terminal sends them to all processes, and this one ends with the run
        signal.signal(number, signal.SIG_IGN)
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)
