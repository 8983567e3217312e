"""Shards are compared with their digests when a run first sees them, not at every start."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import jax

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import Shard, file_sha256
from oddsmill.train.data.dataset import Dataset
from oddsmill.train.parallel.processes import gather_bytes

# The path of a shard -> its size in bytes, its time of change in ns, and the digest that it was found to have.
VerifiedShards = dict[str, tuple[int, int, str]]


def read_verified_shards(path: Path) -> VerifiedShards:
    """Returns what an earlier start of the run found; empty where there is no such file or it is damaged."""
    try:
        return {shard: (size, time, digest) for shard, (size, time, digest) in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def verify_shards(datasets: Sequence[Dataset], verified: VerifiedShards) -> VerifiedShards:
    """Compares every shard with its manifest: its size, and its digest unless `verified` says that it had it.

    Of several processes each reads a share of the shards that are new, and all of them raise what one finds.

    Args:
      verified: shards that were compared before. One whose size or time of change is another now is read again.

    Returns: all shards of the datasets, as `verified` in the next start.

    Raises:
      Refused: shards are missing or altered, all of them named at once.
    """
    shards = {
        os.path.abspath(os.path.join(dataset.folder, shard.name)): shard
        for dataset in datasets
        for split in dataset.manifest.splits.values()
        for shard in split.shards
    }
    found: VerifiedShards = {}
    problems: dict[str, str] = {}
    for path, shard in shards.items():
        try:
            status = os.stat(path)
        except OSError:
            problems[path] = f"{path} is missing"
            continue
        if status.st_size != shard.bytes:
            problems[path] = f"{path} has {status.st_size} bytes, the manifest says {shard.bytes}"
        found[path] = status.st_size, status.st_mtime_ns, shard.sha256
    unknown = sorted(path for path in found.keys() - problems.keys() if verified.get(path) != found[path])
    problems |= _altered({path: shards[path] for path in unknown[jax.process_index() :: jax.process_count()]})
    for other in gather_bytes(json.dumps(problems).encode()):
        problems |= json.loads(other)
    if problems:
        folders = " and ".join(dict.fromkeys(dataset.folder for dataset in datasets))
        lines = "; ".join(problems[path] for path in sorted(problems))
        raise Refused(f"{lines}. Run the preprocessing of {folders} again")
    return found


def _altered(shards: dict[str, Shard]) -> dict[str, str]:
    """Returns a message for each shard whose bytes are not those that its manifest describes."""
    return {
        path: f"{path} was altered: its sha256 is not the manifest's"
        for path, shard in shards.items()
        if file_sha256(path) != shard.sha256
    }
