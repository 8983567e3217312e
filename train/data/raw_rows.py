"""Rows of text for the Python API: the pipeline preprocesses them, in a process of its own.

The stages stay apart: nothing of the pipeline is imported here, and an accelerator host may lack its libraries.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from oddsmill.schemas.errors import Refused, RunFailed
from oddsmill.schemas.process.temporary import temporary_folder


def preprocess_rows(rows: Any, folder: Path, *, name: str, settings: dict[str, Any]) -> str:
    """Preprocesses a dataset into `folder`; does nothing where that holds the result already.

    Args:
      rows: an iterable of rows (dicts), such as a list or a `datasets.Dataset`; or what `--source.path` takes: a
        file, a glob or `hf://org/name`.
      name: what the user calls the rows, for messages.
      settings: of `oddsmill pipeline run`, but for the output and where the rows are.

    Returns: `folder`.

    Raises:
      Refused: the pipeline is not installed, or it or this refuses the rows or the settings.
      RunFailed: the pipeline began and could not end well.
    """
    source = settings.get("source", {})
    if isinstance(source, list):
        raise Refused(
            f"preprocessing: source is a list, and {name} is one source: give the settings of that one; several are "
            "preprocessed by oddsmill pipeline run, whose output folder may be given here"
        )
    if not isinstance(source, Mapping):
        raise Refused(f"preprocessing: source={source!r} is no group of settings, such as {{'format': 'triple'}}")
    for key, given in (("source.path", "path" in source), ("output", "output" in settings)):
        if given:
            where = f"the rows are {name}, and go to {folder}"
            raise Refused(f"preprocessing: {key} has no effect here: {where}; leave it out")
    if importlib.util.find_spec("apache_beam") is None:
        raise Refused(
            f"{name}: rows of text are preprocessed by the pipeline, which is not installed here. "
            "pip install 'oddsmill[pipeline]', or run oddsmill pipeline where it is and give its output folder"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(rows, (str, os.PathLike)):
        path = os.fspath(rows)
    else:
        path = str(folder.with_suffix(".jsonl").absolute())
        write_rows(rows, Path(path), name=name)
    settings = {**settings, "source": {**source, "path": path}, "output": str(folder)}
    with temporary_folder() as private:  # only this user sees it: Beam's options may be keys
        config = Path(private) / "settings.yaml"
        config.write_text(yaml.safe_dump(settings), encoding="utf-8")
        _run([sys.executable, "-m", "oddsmill.pipeline", "run", "--config", str(config)], name=name)
    return str(folder)


def write_rows(rows: Iterable[Any], path: Path, *, name: str) -> None:
    """Writes rows as JSON lines.

    Raises:
      Refused: it is not an iterable of dicts that JSON can hold, or is empty.
    """
    if isinstance(rows, Mapping):
        raise Refused(f"{name} holds several splits ({', '.join(map(str, rows))}); give one of them")
    if not isinstance(rows, Iterable):
        raise Refused(f"{name} is a {type(rows).__name__}; give rows (dicts), a file of rows, or a preprocessed folder")
    number = -1
    with path.open("w", encoding="ascii") as file:
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise Refused(f"{name}, row {number} is a {type(row).__name__}; a dict is needed: field -> value")
            try:
                file.write(json.dumps(dict(row)) + "\n")
            except (TypeError, ValueError) as error:
                raise Refused(
                    f"{name}, row {number}: cannot be written as JSON ({error}); leave that field out"
                ) from error
    if number < 0:
        raise Refused(f"{name} has no rows")


def _run(command: list[str], *, name: str) -> None:
    """Runs a command whose errors end in `refused: …` or `failed: …` (schemas/errors.py), and raises as it would."""
    last = ""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(("refused: ", "failed: ")):
                last = line.partition(": ")[2].strip()
            else:
                sys.stderr.write(line)
    if process.returncode == 2:
        raise Refused(f"{name}: {last}")
    if process.returncode:
        raise RunFailed(f"{name} could not be preprocessed: {last or 'see above'}")
