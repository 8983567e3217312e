"""Folders that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote, on this machine or in a store."""

import glob
import json
import os
import posixpath
from typing import Any

from oddsmill.pipeline.input.splits import SplitFiles, select_splits
from oddsmill.schemas.errors import Refused, one_line
from oddsmill.schemas.stores import is_file, is_remote, open_file


def is_saved_dataset(path: str) -> bool:
    """Tells whether a path is a folder that `save_to_disk` wrote."""
    if (glob.has_magic(path) or is_file(path)) if is_remote(path) else not os.path.isdir(path):
        return False
    return any(is_file(posixpath.join(path, name)) for name in ("dataset_dict.json", "state.json"))


def find_saved_splits(path: str, *, split: str | None) -> list[SplitFiles]:
    """Returns the files of the splits of a folder that are asked for.

    Raises:
      Refused: The folder is not whole, or has no such split.
    """
    path = path.rstrip("/")
    try:
        files = _files_of_splits(path)
    except (KeyError, TypeError, AttributeError) as error:
        raise Refused(
            f"{path}: not a folder that save_to_disk wrote ({type(error).__name__}: {one_line(error)})"
        ) from error
    return select_splits(path, files, split)


def _files_of_splits(path: str) -> dict[str, list[str]]:
    if is_file(posixpath.join(path, "dataset_dict.json")):
        names = _read_json(posixpath.join(path, "dataset_dict.json"))["splits"]
        folders = {name: _inside(path, name) for name in names}
    else:
        folders = {_read_json(posixpath.join(path, "state.json")).get("_split") or "train": path}
    files: dict[str, list[str]] = {}
    for name, folder in folders.items():
        state = _read_json(posixpath.join(folder, "state.json"))
        if state.get("_indices_files"):
            raise Refused(f"{folder} is of an old version of datasets; load it and save it again")
        files[name] = [_inside(folder, file["filename"]) for file in state["_data_files"]]
    return files


def _inside(folder: str, name: Any) -> str:
    """Returns the path of what a dataset names; it names files and folders of its own alone."""
    if not isinstance(name, str) or posixpath.basename(name) != name or name in ("", ".", ".."):
        raise Refused(f"{folder}: names {name!r}, which does not lie in it; save_to_disk writes no such name")
    return posixpath.join(folder, name)


def _read_json(path: str) -> dict[str, Any]:
    with open_file(path) as file:
        try:
            values: dict[str, Any] = json.loads(file.read())
        except (ValueError, RecursionError) as error:
            raise Refused(f"{path}: broken JSON ({one_line(error)})") from error
    return values
