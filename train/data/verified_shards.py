"""Shards are compared with their digests when a run first sees them, not at every start."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from oddsmill.schemas.console import log
from oddsmill.schemas.dataset_files import problem_of_shard
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import Manifest, Shard
from oddsmill.schemas.typed_json import parse_json
from oddsmill.train.data.dataset import Dataset
from oddsmill.train.parallel.processes import gather_bytes, num_processes, process_index

# The path of a shard -> its size in bytes, its time of change in ns, and the digest that it was found to have.
VerifiedShards = dict[str, tuple[int, int, str]]
_THREADS = min(8, os.cpu_count() or 1)  # hashing holds no interpreter lock
_PROGRESS_S = 10
_MOST_NAMED = 10


def read_verified_shards(path: Path) -> VerifiedShards:
    """Returns what an earlier start of the run found; empty where there is no such file or it is damaged."""
    try:
        return {shard: (size, time, digest) for shard, (size, time, digest) in parse_json(path.read_bytes()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def verify_shards(datasets: Sequence[Dataset], verified: VerifiedShards) -> VerifiedShards:
    """Compares every shard with its manifest: its size, and its digest unless `verified` says that it had it.

    Processes that see the same files read a share each of the shards that none of them knows. Where their files are
    not the same (each host has a copy of its own) each reads all that it does not know. All raise what one finds.

    Args:
      verified: shards that were compared before. One whose size or time of change is another now is read again.

    Returns: all shards of the datasets, as `verified` in the next start.

    Raises:
      Refused: shards are missing or altered, or cannot be read, all of them named at once; of very many the first.
    """
    shards = {
        os.path.abspath(os.path.join(dataset.folder, shard.name)): (shard, dataset.manifest)
        for dataset in datasets
        for split in dataset.manifest.splits.values()
        for shard in split.shards
    }
    found: VerifiedShards = {}
    problems: dict[str, str] = {}
    for path, (shard, _) in shards.items():
        try:
            status = os.stat(path)
        except OSError:
            problems[path] = f"{path} is missing"
            continue
        if status.st_size != shard.bytes:
            problems[path] = f"{path} has {status.st_size} bytes, the manifest says {shard.bytes}"
        found[path] = status.st_size, status.st_mtime_ns, shard.sha256
    new = [path in found and path not in problems and verified.get(path) != found[path] for path in shards]
    own = _share(new, [found.get(path) for path in shards])
    problems |= _altered({path: shards[path] for path, is_own in zip(shards, own, strict=True) if is_own})
    count, named = 0, dict[str, str]()
    for message in gather_bytes(json.dumps([len(problems), dict(sorted(problems.items())[:_MOST_NAMED])]).encode()):
        others, few = json.loads(message)
        count, named = max(count, others), named | few
    if named:
        folders = " and ".join(dict.fromkeys(dataset.folder for dataset in datasets))
        lines = [named[path] for path in sorted(named)][:_MOST_NAMED]
        more = max(count, len(named)) - len(lines)
        rest = f"; and so {more:,} more" if more else ""
        raise Refused(f"{'; '.join(lines)}{rest}. Bring them back as they were, or preprocess {folders} again")
    return found


def _share(new: list[bool], states: list[tuple[int, int, str] | None]) -> np.ndarray:
    """Returns which shards this process reads, [shards] bool.

    Args:
      new: the shards that it does not know.
      states: the shards as it sees them. Processes with equal states see the same files.
    """
    seen = hashlib.sha256(json.dumps(states).encode()).digest()
    messages = gather_bytes(seen + np.packbits(new).tobytes())
    if {message[: len(seen)] for message in messages} != {seen}:
        return np.array(new, bool)
    known_to_none = np.bitwise_and.reduce([np.frombuffer(message[len(seen) :], np.uint8) for message in messages])
    of_all = np.flatnonzero(np.unpackbits(known_to_none, count=len(new)))
    own = np.zeros(len(new), bool)
    own[of_all[process_index() :: num_processes()]] = True
    return own


def _altered(shards: dict[str, tuple[Shard, Manifest]]) -> dict[str, str]:
    """Returns a message for each shard whose bytes are not those that its manifest describes; reads several at once."""
    total, done, told = sum(shard.bytes for shard, _ in shards.values()), 0, time.monotonic()
    problems: dict[str, str] = {}
    threads = ThreadPoolExecutor(_THREADS)
    try:
        for (path, (shard, _)), problem in zip(shards.items(), threads.map(_problem, shards.items()), strict=True):
            if problem:
                problems[path] = problem
            done += shard.bytes
            if time.monotonic() - told >= _PROGRESS_S:
                told = time.monotonic()
                log.info(f"comparing {len(shards):,} new shards with their digests, once: {done / total:.0%}")
    finally:
        threads.shutdown(cancel_futures=True)  # a start that is interrupted does not read the rest first
    return problems


def _problem(item: tuple[str, tuple[Shard, Manifest]]) -> str | None:
    path, (shard, manifest) = item
    try:
        return problem_of_shard(path, shard, manifest)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
