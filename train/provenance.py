"""Where the pairs of a dataset come from, where the files that say so lie beside it."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import Refused
from schemas.manifest import Manifest
from schemas.provenance import provenance_path


def read_places(folder: str, manifest: Manifest, split: str) -> dict[int, tuple[str, int]]:
    """The id of a pair -> its file and its row there, from 0; empty where the files are not there.

    Raises:
      Refused: one is damaged.
    """
    places: dict[int, tuple[str, int]] = {}
    for shard in manifest.splits[split].shards:
        path = provenance_path(folder, shard.name)
        if not os.path.isfile(path):
            continue
        try:
            table = pq.read_table(path, columns=["id", "file", "file_row"])
        except (pa.ArrowException, OSError) as error:
            raise Refused(f"{path} cannot be read ({error}); remove it, or run the preprocessing again") from error
        ids, files, rows = (table.column(name).to_pylist() for name in ("id", "file", "file_row"))
        places |= dict(zip(ids, zip(files, rows, strict=True), strict=True))
    return places


def read_sources(folder: str, manifest: Manifest, split: str) -> dict[int, str]:
    """The id of a pair -> the name of its file, as short as tells it from the others; empty where nothing says so.

    Raises:
      Refused: as `read_places`.
    """
    places = read_places(folder, manifest, split)
    names = short_names({file for file, _ in places.values()})
    return {pair: names[file] for pair, (file, _) in places.items()}


def short_names(files: set[str]) -> dict[str, str]:
    """Each path -> its last parts, as many as tell all of them apart."""
    parts = {file: Path(file).parts for file in files}
    for count in range(1, 1 + max(map(len, parts.values()), default=0)):
        names = {file: "/".join(own[-count:]) for file, own in parts.items()}
        if len(set(names.values())) == len(names):
            return names
    return {file: file for file in files}
