"""`verify`: reads a dataset whole and compares it with its manifest and with what must hold of any dataset."""

import os
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np

from oddsmill.pipeline.output.checks import STORED
from oddsmill.pipeline.output.folder import REJECTS_FOLDER, RUN_NAME, load_manifest
from oddsmill.pipeline.output.reading import read_provenance_batches, read_records, read_rejects
from oddsmill.pipeline.output.run_record import run_problems
from oddsmill.pipeline.output.tally import Tally, rows_at_a_time
from oddsmill.schemas.console import log
from oddsmill.schemas.dataset_files import damaged_tokenizer
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import TOKENIZER_FOLDER, Manifest, Shard, SplitSummary, file_sha256
from oddsmill.schemas.provenance import PROVENANCE_FOLDER, provenance_path
from oddsmill.schemas.settings import setting, settings
from oddsmill.schemas.stores import fetch_folder, files_under, is_file, local_file, size_of

_PROGRESS_S = 30


@settings()
class VerifyConfig:
    """Settings of `oddsmill pipeline verify OUT`."""

    dataset: str = setting("The folder of a finished dataset, on this machine or of a store such as gs://.")


class Keys:
    """64-bit keys of all pairs of a split, 8 bytes each."""

    def __init__(self) -> None:
        self._keys = array("Q")

    def add(self, keys: np.ndarray) -> None:
        """Adds keys, [n] uint64."""
        self._keys.frombytes(np.ascontiguousarray(keys).tobytes())

    def sorted(self) -> np.ndarray:
        """Returns all keys in ascending order, [pairs] uint64; none is added after that."""
        keys = np.frombuffer(self._keys, np.uint64)
        keys.sort()  # in place
        return keys


@dataclass
class Contents:
    """The findings of one pass over the shards, each of which is fetched and read once.

    Attributes:
      damage: shards that are missing or altered.
      problems: records that break a rule, and counts that are not the manifest's.
      sources: provenance files that are damaged, or name other pairs than their shard holds.
      without_sources: shards whose provenance file is not there.
      ids, prompts: the pair ids of each split, and the ids of their prompts.
      checks: the data checks, counted again.
    """

    damage: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    without_sources: list[str] = field(default_factory=list)
    ids: dict[str, Keys] = field(default_factory=lambda: defaultdict(Keys))
    prompts: dict[str, Keys] = field(default_factory=lambda: defaultdict(Keys))
    checks: Counter[str] = field(default_factory=Counter)


def verify_dataset(config: VerifyConfig) -> None:
    """Checks everything that can be checked without the source.

    Raises:
      Refused: no dataset there, or problems, all of them named.
    """
    folder, manifest = config.dataset, load_manifest(config.dataset)
    problems: list[str] = []

    def check(what: str, found: Iterable[str]) -> bool:
        named = list(found)
        problems.extend(named)
        if not named:
            log.info(f"ok  {what}")
        return not named

    if manifest.ledger.drops and not files_under(os.path.join(folder, REJECTS_FOLDER)):
        log.info(f"--  dropped rows: not checked, {REJECTS_FOLDER}/ is not there")
    else:
        check(f"{REJECTS_FOLDER}/ holds each dropped row of the ledger", _reject_problems(folder, manifest))
    check(
        f"{RUN_NAME} is of this manifest, {PROVENANCE_FOLDER}/ and {REJECTS_FOLDER}/ are of its run",
        run_problems(folder, manifest),
    )
    contents = _read_all(folder, manifest)
    shards = sum(len(split.shards) for split in manifest.splits.values())
    check(f"{shards} shards have the sha256 of the manifest", contents.damage)
    check("the tokenizer's files have the sha256 of the manifest", _damaged_tokenizer(folder, manifest))
    check("the ledger balances", _ledger_problems(manifest))
    if check("every record decodes and keeps the invariants; counts agree", contents.problems):
        ids = {split: keys.sorted() for split, keys in contents.ids.items()}
        check("the data checks agree: " + ", ".join(STORED), _check_problems(manifest, contents.checks, ids))
        check("no pair is in two splits", _shared("pair", ids))
        if len(contents.without_sources) == shards:
            log.info(f"--  sources of pairs, prompts in two splits: not checked, {PROVENANCE_FOLDER}/ is not there")
        elif check(f"{PROVENANCE_FOLDER}/ names the source of each pair", _source_problems(contents)):
            prompts = {split: keys.sorted() for split, keys in contents.prompts.items()}
            check("no prompt is in two splits", _shared("prompt", prompts))
    if problems:
        raise Refused(f"{folder} has {len(problems)} problems:\n" + "\n".join(f"  {line}" for line in problems))
    pairs = sum(split.pairs for split in manifest.splits.values())
    log.info(f"{folder} holds {pairs:,} pairs, as its manifest says ({manifest.sha256[:12]})")


def _damaged_tokenizer(folder: str, manifest: Manifest) -> Iterator[str]:
    named = os.path.join(folder, TOKENIZER_FOLDER)
    local = fetch_folder(named)
    yield from (line.replace(local, named, 1) for line in damaged_tokenizer(local, manifest))


def _ledger_problems(manifest: Manifest) -> Iterator[str]:
    if not manifest.ledger.balances():
        yield "the ledger does not balance"
    pairs = sum(split.pairs for split in manifest.splits.values())
    if pairs != manifest.ledger.pairs_out:
        yield f"the ledger has {manifest.ledger.pairs_out} pairs out, the splits {pairs}"


def _reject_problems(folder: str, manifest: Manifest) -> Iterator[str]:
    try:
        found = Counter(reject.reason for reject in read_rejects(folder))
    except ValueError as error:
        yield str(error)
        return
    for reason in sorted(found.keys() | manifest.ledger.drops.keys()):
        declared = manifest.ledger.drops.get(reason, 0)
        if found[reason] != declared:
            yield f"{REJECTS_FOLDER}/ has {found[reason]} rows for {reason}, the ledger {declared}"


def _read_all(folder: str, manifest: Manifest) -> Contents:
    contents, done = Contents(), _Progress(sum(len(split.shards) for split in manifest.splits.values()))
    for name, declared in manifest.splits.items():
        tally = Tally()
        for shard in declared.shards:
            done.report()
            path = os.path.join(folder, shard.name)
            if not is_file(path):
                contents.damage.append(f"{path} is missing")
                continue
            with local_file(path) as local:
                contents.damage += _altered(path, local, shard)
                pairs = _count_shard(local, shard, manifest, declared, tally, contents.problems)
            if pairs is not None:
                contents.ids[name].add(pairs.ids)
                _read_sources(folder, shard, pairs, contents, contents.prompts[name])
        counted = tally.summary(declared.shards, row_length=manifest.row_length)
        # An older version did not count the highest id.
        stated = {key: value for key, value in vars(declared).items() if value is not None}
        fields = [key for key, value in stated.items() if getattr(counted, key) != value]
        if fields:
            contents.problems.append(f"split {name}: recounting gives other {', '.join(fields)} than the manifest")
        contents.checks += tally.checks
    return contents


class _Progress:
    """Tells how far a long pass has come."""

    def __init__(self, shards: int):
        self._shards, self._begun, self._told = shards, -1, time.monotonic()

    def report(self) -> None:
        """Is called before each shard."""
        self._begun += 1
        if time.monotonic() - self._told >= _PROGRESS_S:
            self._told = time.monotonic()
            log.info(f"..  {self._begun:,} of {self._shards:,} shards are read")


def _altered(path: str, local: str, shard: Shard) -> Iterator[str]:
    if size_of(local) != shard.bytes:
        yield f"{path} has {size_of(local)} bytes, the manifest says {shard.bytes}"
    elif file_sha256(local) != shard.sha256:
        yield f"{path} was altered: its sha256 is not the manifest's"


class ShardPairs(NamedTuple):
    """The pairs of a shard, in stored order: their ids, [n] uint64, and the rows that they stand in, [n] int64."""

    ids: np.ndarray
    rows: np.ndarray


def _count_shard(
    local: str, shard: Shard, manifest: Manifest, declared: SplitSummary, tally: Tally, problems: list[str]
) -> ShardPairs | None:
    """Adds the rows of a shard to `tally` and returns their pairs; None if they cannot all be read."""
    ids, sizes = [np.zeros(0, np.uint64)], [0]
    rows = read_records(local, shard, manifest, max_pairs=declared.max_pairs_per_row)
    try:
        while few := list(islice(rows, rows_at_a_time(manifest.row_length))):
            tally.add_rows(few, manifest.tokenizer)
            ids.append(np.concatenate([row.pair_ids for row in few]))
            sizes += map(len, few)
    except (ValueError, RuntimeError, OSError) as error:
        problems.append(str(error) if shard.name in str(error) else f"{shard.name}: {error}")
        return None
    records = len(sizes) - 1
    if records != shard.records:
        problems.append(f"{shard.name} has {records} records, the manifest says {shard.records}")
    return ShardPairs(np.concatenate(ids), np.repeat(np.arange(-1, records), sizes))


def _read_sources(folder: str, shard: Shard, pairs: ShardPairs, contents: Contents, prompts: Keys) -> None:
    """Compares the provenance of a shard with its pairs, and adds the ids of their prompts to `prompts`."""
    path = provenance_path(folder, shard.name)
    if not is_file(path):
        contents.without_sources.append(path)
        return
    first, columns = 0, ("row", "id", "prompt_id")
    try:
        for batch in read_provenance_batches(folder, shard, columns, most_lines=len(pairs.ids)):
            rows, ids, prompt_ids = (column.to_numpy() for column in batch.columns)
            end = first + len(ids)
            if not np.array_equal(pairs.ids[first:end], ids) or not np.array_equal(pairs.rows[first:end], rows):
                contents.sources.append(f"{path} names other pairs than {shard.name} holds")
                return
            prompts.add(prompt_ids)
            first = end
    except ValueError as error:
        contents.sources.append(str(error))
        return
    if first < len(pairs.ids):
        contents.sources.append(f"{path} names {first} pairs, {shard.name} holds {len(pairs.ids)}")


def _source_problems(contents: Contents) -> Iterator[str]:
    yield from contents.sources
    yield from (f"{path} is missing, and others are there" for path in contents.without_sources)


def _check_problems(manifest: Manifest, checks: Counter[str], ids: dict[str, np.ndarray]) -> Iterator[str]:
    """Yields the counts of the manifest that are not those of the stored pairs; `ids` are in order."""
    repeated = sum(int(np.count_nonzero(keys[1:] == keys[:-1])) for keys in ids.values())
    for name, number in ({name: checks[name] for name in STORED} | {"exact_duplicates": repeated}).items():
        # A dataset that an older version wrote lacks the counts that came later.
        if manifest.counts.get(name, number) != number:
            yield f"counts: {name} is {manifest.counts[name]} in the manifest, {number} in the shards"


def _shared(what: str, keys: dict[str, np.ndarray]) -> Iterator[str]:
    """Yields a problem if two splits share keys, which are in order."""
    if len(keys) < 2:
        return
    few, many = sorted(keys.values(), key=len)
    both = np.unique(few)
    both = both[np.take(many, np.searchsorted(many, both), mode="clip") == both] if len(many) else both
    if len(both):
        yield f"{len(both)} {what}s are in both splits, for instance {int(both[0]):016x}"
