"""The console command: `oddsmill pipeline VERB …` and `oddsmill train VERB …`, each as `python -m oddsmill.STAGE`."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from oddsmill.schemas.errors import Refused, run_command
from oddsmill.schemas.process.ending import run_process

USAGE = """\
usage: oddsmill STAGE VERB …

  pipeline       preference texts -> packed rows of token ids; needs oddsmill[pipeline]
  train          rows -> weights; needs oddsmill[train]

oddsmill STAGE --help lists the verbs of a stage."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns its exit code. Only the stage that is asked for is imported."""
    if arguments is None:  # the process is this command's
        guard_imports_of_children()
        return run_process(lambda: main(sys.argv[1:]))
    stage, *rest = arguments or [""]
    if stage in ("", "-h", "--help", "help"):
        print(USAGE)
        return 0 if stage else 2
    exit_code = 0

    def run_stage() -> None:
        nonlocal exit_code
        if stage not in ("pipeline", "train"):
            raise Refused(f"no stage {stage!r}; there are pipeline and train. oddsmill --help says more")
        exit_code = import_module(f"oddsmill.{stage}.__main__").main(rest)

    return run_command(run_stage) or exit_code


def guard_imports_of_children() -> None:
    """Lets no process that this one starts import modules from the working folder, which may hold a stranger's data.

    `python -m` puts that folder first on the path, and Beam and multiprocessing start their workers so. Where it is on
    the path of this process too, the person who started it has put it there.
    """
    with suppress(OSError):  # the working folder is gone
        if not {"", os.getcwd()} & set(sys.path):
            os.environ.setdefault("PYTHONSAFEPATH", "1")


if __name__ == "__main__":
    sys.exit(main())
