"""The console command: `oddsmill pipeline VERB …` and `oddsmill train VERB …`, each as `python -m oddsmill.STAGE`."""

import sys
from collections.abc import Sequence
from importlib import import_module

from oddsmill.schemas.errors import Refused, run_command
from oddsmill.schemas.process.signals import start_watching

USAGE = """\
usage: oddsmill STAGE VERB …

  pipeline       preference texts -> packed rows of token ids; needs oddsmill[pipeline]
  train          rows -> weights; needs oddsmill[train]

oddsmill STAGE --help lists the verbs of a stage."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns its exit code. Only the stage that is asked for is imported."""
    if arguments is None:  # the process is this command's, and its signals too until all of it is over
        start_watching()
    stage, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
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


if __name__ == "__main__":
    sys.exit(main())
