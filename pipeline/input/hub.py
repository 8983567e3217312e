"""Datasets with splits: of the Hugging Face hub, and folders that `save_to_disk` wrote. Which files they have.

The `datasets` library finds the files and knows slices; the rows are read by our own readers, on the workers.
"""

import glob
import json
import os
import posixpath
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from oddsmill.schemas.console import held_back
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.stores import is_file, is_remote, open_file

_HUB = re.compile(r"^hf://(?!datasets/)(?P<dataset>[^/@]+/[^/@]+)(?:/(?P<name>[^/]+))?/?$")
_BOUND = re.compile(r"(-?\d+)\s*(%?)")
_READ_KINDS = ("arrow", "cache", "csv", "json", "parquet")


class SplitFiles(NamedTuple):
    """A split, or a slice of it.

    Attributes:
      path: how rows name it.
      files: what is read for it.
      wanted: the slice, as `datasets` writes it; None for the whole split.
    """

    path: str
    files: list[str]
    wanted: str | None


def is_hub_dataset(path: str) -> bool:
    """hf://org/name is a dataset; hf://datasets/org/name/file names files in one."""
    return path.startswith("hf://") and not path.startswith("hf://datasets/")


def is_saved_dataset(path: str) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    if (glob.has_magic(path) or is_file(path)) if is_remote(path) else not os.path.isdir(path):
        return False
    return any(is_file(posixpath.join(path, name)) for name in ("dataset_dict.json", "state.json"))


def find_hub_splits(path: str, *, split: str | None, name: str | None, revision: str | None) -> list[SplitFiles]:
    """The files of a dataset on the hub; without a connection, those of the cache of `datasets`.

    Raises:
      Refused: the dataset, its configuration, revision or split is not there, or it is of a kind not read here.
    """
    match = _HUB.match(path)
    if not match:
        raise Refused(f"--source.path={path}: write hf://org/name, or hf://org/name/config")
    if name and match["name"] and name != match["name"]:
        raise Refused(f"--source.name={name}: --source.path={path} says {match['name']}; give one of them")
    builder = _load_builder(path, match["dataset"], name or match["name"], revision)
    kind = type(builder).__module__.split(".")[-1]
    if kind not in _READ_KINDS:
        raise Refused(f"{path}: its files are of the kind {kind!r}; {', '.join(_READ_KINDS)} are read")
    files = _cached_files(builder) if kind == "cache" else _data_files(path, builder, kind)
    return _select(path.rstrip("/"), files, split)


def find_saved_splits(path: str, *, split: str | None) -> list[SplitFiles]:
    """The files of a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote.

    Raises:
      Refused: the folder is not whole, or has no such split.
    """
    path = path.rstrip("/")
    if is_file(posixpath.join(path, "dataset_dict.json")):
        names = _read_json(posixpath.join(path, "dataset_dict.json"))["splits"]
        folders = {name: posixpath.join(path, name) for name in names}
    else:
        folders = {_read_json(posixpath.join(path, "state.json")).get("_split") or "train": path}
    files: dict[str, list[str]] = {}
    for name, folder in folders.items():
        state = _read_json(posixpath.join(folder, "state.json"))
        if state.get("_indices_files"):
            raise Refused(f"{folder} is of an old version of datasets; load it and save it again")
        files[name] = [posixpath.join(folder, file["filename"]) for file in state["_data_files"]]
    return _select(path, files, split)


def slice_rows(wanted: str, rows: int, path: str) -> tuple[int, int]:
    """The rows of a slice, from and up to but not including; rounded as `datasets` does.

    Args:
      wanted: such as "train[:5%]".
      rows: of the whole split.

    Raises:
      Refused: it is out of range, or empty.
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
    return found.from_, found.to


def _select(path: str, files: Mapping[str, list[str]], split: str | None) -> list[SplitFiles]:
    """Reads the setting `split`: splits and slices, joined by +."""
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


def _load_builder(path: str, dataset: str, name: str | None, revision: str | None) -> Any:
    from datasets import disable_progress_bars, load_dataset_builder

    disable_progress_bars()
    try:
        # It tells of each of its attempts, for 25 s where there is no network; the refusal says it once.
        with held_back("huggingface_hub", below="error"):
            return load_dataset_builder(dataset, name, revision=revision)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise Refused(f"--source.path={path}: {problem}") from error


def _data_files(path: str, builder: Any, kind: str) -> dict[str, list[str]]:
    """By split, the addresses of the files, which hold the commit."""
    files = {str(split): [str(file) for file in names] for split, names in builder.config.data_files.items()}
    archived = next((file for names in files.values() for file in names if "::" in file), None)
    if archived:
        raise Refused(f"{path}: {archived} is in an archive, which is not read; give its files")
    if kind == "json" and builder.config.field:
        raise Refused(f"{path}: its rows lie under the field {builder.config.field!r} of one JSON object: not read")
    if kind == "csv":
        separators = {"\t" if file.lower().endswith(".tsv") else "," for names in files.values() for file in names}
        if {builder.config.sep} != separators or builder.config.names or builder.config.header != "infer":
            raise Refused(f"{path}: its card asks for a separator or header of its own: not read; convert it")
    return files


def _cached_files(builder: Any) -> dict[str, list[str]]:
    """By split, the Arrow files that `datasets` made when the dataset was loaded before."""
    from datasets.naming import filenames_for_dataset_split

    return {
        str(name): filenames_for_dataset_split(
            builder.cache_dir, builder.dataset_name, name, filetype_suffix="arrow", shard_lengths=info.shard_lengths
        )
        for name, info in builder.info.splits.items()
    }


def _read_json(path: str) -> Any:
    with open_file(path) as file:
        try:
            return json.loads(file.read())
        except ValueError as error:
            raise Refused(f"{path}: broken JSON ({error})") from error
