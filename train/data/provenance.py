"""The sources of a dataset's pairs, read from the provenance files beside its shards, where these exist."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from oddsmill.schemas.errors import Refused, one_line
from oddsmill.schemas.manifest import Manifest
from oddsmill.schemas.provenance import provenance_batches, provenance_path

Place = tuple[str, int]  # a file, and a row of it from 0


def read_places(folder: str, manifest: Manifest, split: str) -> dict[int, list[Place]]:
    """Returns the places of each pair by its id; empty where the dataset has no provenance files.

    Pairs of equal texts have one id: where several are kept (dedup=none) their places are in stored order.

    Raises:
      Refused: one is damaged.
    """
    places: dict[int, list[Place]] = {}
    columns = ("id", "file", "file_row")
    for shard in manifest.splits[split].shards:
        path = provenance_path(folder, shard.name)
        if not os.path.isfile(path):
            continue
        try:
            for batch in provenance_batches(path, columns, most_lines=manifest.splits[split].pairs):
                values = (batch.column(name).to_pylist() for name in columns)
                for pair, file, row in zip(*values, strict=True):
                    places.setdefault(pair, []).append((file, row))
        except ValueError as error:
            raise Refused(
                f"{path} cannot be read ({one_line(error)}); remove it, or run the preprocessing again"
            ) from error
    return places


def place_of_each(pair_ids: Sequence[int], places: Mapping[int, list[Place]]) -> list[Place | None]:
    """Returns the place that each pair comes from, None where it is not known.

    Args:
      pair_ids: of a whole split in stored order, so that the n-th of equal pairs has the n-th place.
      places: as `read_places` gives them.
    """
    left = {pair: iter(own) for pair, own in places.items()}
    nowhere: Iterator[Place] = iter(())
    return [next(left.get(pair, nowhere), None) for pair in pair_ids]


def source_of_each(pair_ids: Sequence[int], places: Mapping[int, list[Place]]) -> list[str]:
    """Returns the file of each pair, its name as short as tells it from the others; "" where it is not known."""
    names = short_names({file for own in places.values() for file, _ in own})
    return [names[place[0]] if place else "" for place in place_of_each(pair_ids, places)]


def short_names(files: set[str]) -> dict[str, str]:
    """Returns for each path its last parts, as many as tell all of them apart."""
    parts = {file: Path(file).parts for file in files}
    for count in range(1, 1 + max(map(len, parts.values()), default=0)):
        names = {file: "/".join(own[-count:]) for file, own in parts.items()}
        if len(set(names.values())) == len(names):
            return names
    return {file: file for file in files}
