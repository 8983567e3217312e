"""`verify`: reads a dataset whole and compares it with its manifest and with what must hold of any dataset."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from oddsmill.pipeline.output.checks import STORED
from oddsmill.pipeline.output.folder import REJECTS_FOLDER, load_manifest
from oddsmill.pipeline.output.reading import read_provenance, read_records, read_rejects
from oddsmill.pipeline.output.tally import Tally
from oddsmill.schemas.console import log
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import TOKENIZER_FOLDER, Manifest, Shard, SplitSummary, file_sha256
from oddsmill.schemas.settings import setting, settings
from oddsmill.schemas.stores import fetch_folder, files_under, is_file, local_file, size_of


@settings()
class VerifyConfig:
    """Settings of `oddsmill pipeline verify OUT`."""

    dataset: str = setting("The folder of a finished dataset, on this machine or of a store such as gs://.")


@dataclass
class Contents:
    """The findings of one pass over the shards, each of which is fetched and read once.

    Attributes:
      damage: shards that are missing or altered.
      problems: records that break a rule, and counts that are not the manifest's.
      ids: the pair ids of each split.
      checks: the data checks, counted again.
    """

    damage: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    ids: dict[str, np.ndarray] = field(default_factory=dict)
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
    contents = _read_all(folder, manifest)
    shards = sum(len(split.shards) for split in manifest.splits.values())
    check(f"{shards} shards have the sha256 of the manifest", contents.damage)
    check("the tokenizer's files have the sha256 of the manifest", _damaged_tokenizer(folder, manifest))
    check("the ledger balances", _ledger_problems(manifest))
    if check("every record decodes and keeps the invariants; counts agree", contents.problems):
        check("the data checks agree: " + ", ".join(STORED), _check_problems(manifest, contents))
        check("no pair is in two splits", _shared("pair", contents.ids))
        try:
            prompts = _prompt_ids(folder, manifest)
        except ValueError as error:
            problems.append(str(error))
        else:
            if prompts is None:
                log.info("--  prompts in two splits: not checked, provenance/ is not there")
            else:
                check("no prompt is in two splits", _shared("prompt", prompts))
    if problems:
        raise Refused(f"{folder} has {len(problems)} problems:\n" + "\n".join(f"  {line}" for line in problems))
    pairs = sum(split.pairs for split in manifest.splits.values())
    log.info(f"{folder} holds {pairs:,} pairs, as its manifest says ({manifest.sha256[:12]})")


def _damaged_tokenizer(folder: str, manifest: Manifest) -> Iterator[str]:
    local = fetch_folder(os.path.join(folder, TOKENIZER_FOLDER))
    for name, digest in manifest.tokenizer.sha256.items():
        path = os.path.join(folder, TOKENIZER_FOLDER, name)
        if not os.path.isfile(os.path.join(local, name)):
            yield f"{path} is missing"
        elif file_sha256(os.path.join(local, name)) != digest:
            yield f"{path} was altered: its sha256 is not the manifest's"


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
    contents = Contents()
    for name, declared in manifest.splits.items():
        tally, found = Tally(), [np.zeros(0, np.uint64)]
        for shard in declared.shards:
            path = os.path.join(folder, shard.name)
            if not is_file(path):
                contents.damage.append(f"{path} is missing")
                continue
            with local_file(path) as local:
                contents.damage += _altered(path, local, shard)
                contents.problems += _count_shard(local, shard, manifest, declared, tally, found)
        counted = tally.summary(declared.shards, row_length=manifest.row_length)
        # An older version did not count the highest id.
        stated = {key: value for key, value in vars(declared).items() if value is not None}
        fields = [key for key, value in stated.items() if getattr(counted, key) != value]
        if fields:
            contents.problems.append(f"split {name}: recounting gives other {', '.join(fields)} than the manifest")
        contents.ids[name] = np.concatenate(found)
        contents.checks += tally.checks
    return contents


def _altered(path: str, local: str, shard: Shard) -> Iterator[str]:
    if size_of(local) != shard.bytes:
        yield f"{path} has {size_of(local)} bytes, the manifest says {shard.bytes}"
    elif file_sha256(local) != shard.sha256:
        yield f"{path} was altered: its sha256 is not the manifest's"


def _count_shard(
    local: str, shard: Shard, manifest: Manifest, declared: SplitSummary, tally: Tally, found: list[np.ndarray]
) -> Iterator[str]:
    """Adds the rows of a shard to `tally`, their pair ids to `found`."""
    records = 0
    try:
        for row in read_records(local, shard, manifest, max_pairs=declared.max_pairs_per_row):
            tally.add_row(row, manifest.tokenizer)
            found.append(row.pair_ids)
            records += 1
    except (ValueError, RuntimeError, OSError) as error:
        yield str(error) if shard.name in str(error) else f"{shard.name}: {error}"
        return
    if records != shard.records:
        yield f"{shard.name} has {records} records, the manifest says {shard.records}"


def _check_problems(manifest: Manifest, contents: Contents) -> Iterator[str]:
    """Yields the counts of the manifest that are not those of the stored pairs."""
    repeated = sum(len(pairs) - len(np.unique(pairs)) for pairs in contents.ids.values())
    for name, number in ({name: contents.checks[name] for name in STORED} | {"exact_duplicates": repeated}).items():
        # A dataset that an older version wrote lacks the counts that came later.
        if manifest.counts.get(name, number) != number:
            yield f"counts: {name} is {manifest.counts[name]} in the manifest, {number} in the shards"


def _prompt_ids(folder: str, manifest: Manifest) -> dict[str, np.ndarray] | None:
    prompts: dict[str, np.ndarray] = {}
    for name, split in manifest.splits.items():
        lines = [line for shard in split.shards for line in read_provenance(folder, shard)]
        if len(lines) != split.pairs:
            return None
        prompts[name] = np.array([line.prompt_id for line in lines], np.uint64)
    return prompts


def _shared(what: str, keys: dict[str, np.ndarray]) -> Iterator[str]:
    if len(keys) == 2:
        both = np.intersect1d(keys["train"], keys["eval"])
        if len(both):
            yield f"{len(both)} {what}s are in both splits, for instance {int(both[0]):016x}"
