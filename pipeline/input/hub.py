"""Datasets of the Hugging Face hub: hf://org/name, or hf://org/name/configuration.

The `datasets` library finds their files; the rows are read by our own readers, on the workers.
"""

import re
from typing import TYPE_CHECKING

from oddsmill.pipeline.input.splits import SplitFiles, select_splits
from oddsmill.schemas.console import held_back
from oddsmill.schemas.errors import Refused, one_line
from oddsmill.schemas.hub import is_hub_id

if TYPE_CHECKING:
    from datasets import DatasetBuilder

_ADDRESS = re.compile(r"^hf://(?P<dataset>[^/]+/[^/]+)(?:/(?P<name>[^/]+))?/?$")
_READ_KINDS = ("arrow", "cache", "csv", "json", "parquet")


def is_hub_dataset(path: str) -> bool:
    """Tells a dataset, hf://org/name, from files in one, hf://datasets/org/name/file."""
    return path.startswith("hf://") and not path.startswith("hf://datasets/")


def find_hub_splits(path: str, *, split: str | None, name: str | None, revision: str | None) -> list[SplitFiles]:
    """Returns the files of a dataset on the hub; without a connection, those in the cache of `datasets`.

    Raises:
      Refused: The dataset, its configuration, revision or split is not there, or it is of a kind not read here.
    """
    match = _ADDRESS.match(path)
    if not match or not is_hub_id(match["dataset"]):
        raise Refused(f"--source.path={path}: write hf://org/name, or hf://org/name/config")
    if name and match["name"] and name != match["name"]:
        raise Refused(f"--source.name={name}: --source.path={path} says {match['name']}; give one of them")
    builder = _load_builder(path, match["dataset"], name or match["name"], revision)
    kind = type(builder).__module__.split(".")[-1]
    if kind not in _READ_KINDS:
        raise Refused(f"{path}: its files are of the kind {kind!r}; {', '.join(_READ_KINDS)} are read")
    files = _cached_files(builder) if kind == "cache" else _data_files(path, builder, kind)
    return select_splits(path.rstrip("/"), files, split)


def _load_builder(path: str, dataset: str, name: str | None, revision: str | None) -> "DatasetBuilder":
    from datasets import disable_progress_bars, load_dataset_builder

    disable_progress_bars()
    try:
        # It reports each of its attempts, for 25 s where there is no network; the refusal says it once.
        with held_back("huggingface_hub", below="error"):
            return load_dataset_builder(dataset, name, revision=revision)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        raise Refused(f"--source.path={path}: {one_line(error)}") from error


def _data_files(path: str, builder: "DatasetBuilder", kind: str) -> dict[str, list[str]]:
    """Returns the addresses of the files by split; they hold the commit."""
    files = {str(split): [str(file) for file in names] for split, names in builder.config.data_files.items()}
    archived = next((file for names in files.values() for file in names if "::" in file), None)
    if archived:
        raise Refused(f"{path}: {archived} is in an archive, which is not read; give its files")
    elsewhere = next((file for names in files.values() for file in names if not file.startswith("hf://")), None)
    if elsewhere:
        raise Refused(f"{path}: its card names {elsewhere}, which is not of the hub and is not read")
    if kind == "csv":
        separators = {"\t" if file.lower().endswith(".tsv") else "," for names in files.values() for file in names}
        if {builder.config.sep} != separators or builder.config.names or builder.config.header != "infer":
            raise Refused(f"{path}: its card asks for a separator or header of its own: not read; convert it")
    return files


def _cached_files(builder: "DatasetBuilder") -> dict[str, list[str]]:
    """Returns, by split, the Arrow files that `datasets` made when the dataset was loaded before."""
    from datasets.naming import filenames_for_dataset_split

    return {
        str(name): filenames_for_dataset_split(
            builder.cache_dir, builder.dataset_name, name, filetype_suffix="arrow", shard_lengths=info.shard_lengths
        )
        for name, info in builder.info.splits.items()
    }
