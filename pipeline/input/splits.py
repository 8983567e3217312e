"""Splits of datasets and slices of them, as the setting `source.split` names them: train, train[:5%], train+test."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from oddsmill.schemas.errors import Refused

_BOUND = re.compile(r"(-?\d+)\s*(%?)")


class SplitFiles(NamedTuple):
    """A split of a dataset, or a slice of one.

    Attributes:
      path: The name that rows give it, such as "hf://org/name/train".
      files: The files that are read for it, in order.
      wanted: The slice, as `datasets` writes it; None for the whole split.
    """

    path: str
    files: list[str]
    wanted: str | None


def select_splits(path: str, files: Mapping[str, list[str]], split: str | None) -> list[SplitFiles]:
    """Returns the splits and slices that a setting asks for.

    Args:
      path: The dataset.
      files: The files of each split that it has.
      split: Splits and slices joined by +; None for train, or for the only split that there is.

    Raises:
      Refused: There is no such split, it has no file, or the slice cannot be parsed.
    """
    there = ", ".join(files)
    if split is None:
        if "train" not in files and len(files) != 1:
            raise Refused(f"{path} has no split train; say --source.split, one of {there}")
        split = "train" if "train" in files else next(iter(files))
    selected: list[SplitFiles] = []
    for wanted in re.split(r"\s*\+\s*", split.strip()):
        name = _split_of(wanted)
        _check_slice(wanted)
        if name not in files:
            raise Refused(f"--source.split={wanted}: {path} has no such split; there are {there}")
        if not files[name]:
            raise Refused(f"{path}: its split {name} has no file")
        selected.append(SplitFiles(f"{path}/{name}", files[name], None if wanted == name else wanted))
    return selected


def slice_rows(wanted: str, rows: int, path: str) -> range:
    """Returns the row numbers of a slice, rounded as `datasets` does.

    Args:
      wanted: The slice, such as "train[:5%]".
      rows: The number of rows of the whole split.
      path: The split, for messages.

    Raises:
      Refused: The slice is out of range, or empty.
    """
    from datasets import ReadInstruction

    for bound, unit in _BOUND.findall(wanted.partition("[")[2]):
        if not unit and abs(int(bound)) > rows:
            raise Refused(f"--source.split={wanted}: {bound} is out of range, {path} has {rows:,} rows")
    try:
        (found,) = ReadInstruction.from_spec(wanted).to_absolute({_split_of(wanted): rows})
    except ValueError as error:
        raise Refused(f"--source.split={wanted}: {error}") from error
    if found.from_ >= found.to:
        raise Refused(f"--source.split={wanted} is empty: {path} has {rows:,} rows")
    return range(found.from_, found.to)


def _check_slice(wanted: str) -> None:
    from datasets import ReadInstruction

    try:
        ReadInstruction.from_spec(wanted)
    except ValueError as error:
        raise Refused(
            f"--source.split={wanted}: {error}; write train, train[:5%], train[100:200], or several joined by +"
        ) from error


def _split_of(wanted: str) -> str:
    return wanted.partition("[")[0].strip()
