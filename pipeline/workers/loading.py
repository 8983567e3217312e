"""The start of a server: fastokens loads a tokenizer beside the import of all else, for each takes a second.

This module imports little, so that the loading begins at once.
"""

import pickle
import sys
from contextlib import suppress
from pathlib import Path
from threading import Thread

from oddsmill.schemas.engines.fast import FastEngine


def main() -> None:
    """Begins to load the tokenizer.json that the first message names, if it names one; then a server does its work."""
    file: Path | None = pickle.load(sys.stdin.buffer)
    early = None
    if file is not None:
        early = Thread(target=_load, args=(file,))
        try:
            early.start()
        except RuntimeError:  # there are no more threads
            early = None
    from oddsmill.pipeline.workers import worker

    worker.main(early)


def _load(file: Path) -> None:
    """Loads it for whoever asks next; what is wrong shows then."""
    with suppress(BaseException):  # a panic of Rust's is no Exception
        FastEngine(file.read_bytes())
