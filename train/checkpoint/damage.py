"""Damaged checkpoints: what is wrong with them in a line, and where they go."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import jax

from oddsmill.schemas.console import log
from oddsmill.train.parallel.processes import gather_bytes


def set_aside(folder: Path, problems: Mapping[int, str], whole: int) -> None:
    """Renames damaged checkpoints, so that their steps can be saved again, with a warning. All processes call this.

    Args:
      folder: of the checkpoints.
      problems: the step of each that is damaged, and what is wrong.
      whole: the step that the run goes on from.
    """
    for step, problem in problems.items():
        if jax.process_index() == 0:
            aside = folder / f"{step}.damaged"
            shutil.rmtree(aside, ignore_errors=True)
            (folder / str(step)).rename(aside)
            log.warning(
                f"the checkpoint of step {step} is damaged ({problem}): it lies in {aside} now, "
                f"and the run goes on from that of step {whole}"
            )
    gather_bytes(b"")  # nobody lists the folder before


def first_line(error: BaseException) -> str:
    """Returns the message of the root of an error, short enough for a line."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) <= 200 else text[:200] + " …"
