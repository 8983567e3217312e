"""manifest.json: the description of a preprocessed dataset. It is written last, so its presence means done.

It holds nothing that depends on where the run took place (paths, workers, times, the order of the input):
equal rows and settings give an equal manifest, byte for byte. `run.json` beside it keeps the rest.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.record import PLAIN_VERSION, SCHEMA_VERSIONS

MANIFEST_NAME = "manifest.json"
TOKENIZER_FOLDER = "tokenizer"
BOS_BEFORE_TEXTS = "BOS before texts"  # the name of this difference in messages
Split = Literal["train", "eval"]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One ArrayRecord file of a split."""

    name: str
    records: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """The shards and counts of one split.

    Attributes:
      shards: in order; the order of rows is the order of shards and of records in them.
      tokens: real tokens by branch: `prompt` (counted once a pair), `chosen`, `rejected`.
      padding_share: share of row slots that hold no token.
      truncated: pairs with that side cut.
      length_histograms: for `prompt`, `chosen`, `rejected`: how many pairs have a length of at most
        the power of two that is the key, and more than half of it.
      unscored: tokens of `chosen` and of `rejected` that no loss counts; they are among `tokens`. Empty, and not in the
        file, where there are none.
      max_token_id: the highest id in the rows; -1 where there is none, None in a dataset of an older version.
    """

    shards: list[Shard]
    rows: int
    pairs: int
    tokens: dict[str, int]
    padding_share: float
    max_pairs_per_row: int
    truncated: dict[str, int]
    length_histograms: dict[str, dict[str, int]]
    unscored: dict[str, int] = field(default_factory=dict)
    max_token_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class TokenizerSummary:
    """The tokenizer that the ids come from; its files stand in `tokenizer/` beside the manifest.

    Attributes:
      ids_sha256: the digest of what decides the ids (schemas/chat/identity.py); None in a dataset of an older version.
      adds_bos: BOS begins every text; None in a dataset of an older version.
      turn_end: the ids that the chat template writes after an answer, from the token that ends the turn on.
      turn_start_id: the token that begins a turn; None where text does.
    """

    sha256: dict[str, str]
    chat_template_sha256: str | None
    bos_id: int | None
    eos_id: int
    pad_id: int
    vocab_size: int
    turn_end: list[int] = field(default_factory=list)
    turn_start_id: int | None = None
    ids_sha256: str | None = None
    adds_bos: bool | None = None

    def begins_texts_as(self, other: "TokenizerSummary") -> bool:
        """Says whether both begin texts with BOS, or neither; so it is taken to be where one does not say."""
        return None in (self.adds_bos, other.adds_bos) or self.adds_bos == other.adds_bos

    def differences(self, other: "TokenizerSummary") -> list[str]:
        """Names what makes other rows in two tokenizers: files, or BOS; empty where they make the same.

        A dataset of an older version does not say what decides its ids: then the files must be equal.
        """
        is_known = self.ids_sha256 is not None and other.ids_sha256 is not None
        ours, theirs = (
            dataclasses.replace(each, sha256={}, ids_sha256=each.ids_sha256 if is_known else None, adds_bos=None)
            for each in (self, other)
        )
        begin_alike = self.begins_texts_as(other)
        if ours == theirs and begin_alike and (is_known or self.sha256 == other.sha256):
            return []
        names = [name for name, _ in sorted(self.sha256.items() ^ other.sha256.items())]
        names += [] if begin_alike else [BOS_BEFORE_TEXTS]
        return list(dict.fromkeys(names)) or ["reading of it"]


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The account of every input row. `rows_in + extra_pairs == pairs_out + sum(drops)` holds, or there is no manifest.

    Attributes:
      extra_pairs: where a row may give several pairs, those beyond the first of each.
    """

    rows_in: int
    pairs_out: int
    drops: dict[str, int]
    extra_pairs: int = 0

    def balances(self) -> bool:
        return self.rows_in + self.extra_pairs == self.pairs_out + sum(self.drops.values())


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The whole of manifest.json.

    Attributes:
      schema_version: the highest version of a record of the dataset, so that a reader knows before the first of them
        whether it can read all.
      settings: every resolved setting of the pipeline that has a part in the bytes.
      source_fingerprint: of the rows read, as a set: it does not depend on their order or files.
      counts: pairs with a property worth knowing (boundary merged, exact duplicate), by name.
      not_read: the number of rows with pairs in which a column holds something that is not read, by column; None where
        an earlier version did not say.
      writer_options: the ArrayRecord options, as the writer reports them.
      libraries: versions of what makes the bytes.
    """

    schema_version: int = PLAIN_VERSION
    tool_version: str
    settings: dict[str, Any]
    tokenizer: TokenizerSummary
    source_fingerprint: str
    row_length: int
    splits: dict[str, SplitSummary]
    ledger: Ledger
    counts: dict[str, int]
    not_read: dict[str, int] | None = None
    writer_options: str
    libraries: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Returns the text of manifest.json; equal manifests give equal text."""
        fields = dataclasses.asdict(self)
        # The text, and so the fingerprint, of an earlier version's manifest stays the same.
        if self.not_read is None:
            del fields["not_read"]
        for name in ("ids_sha256", "adds_bos"):
            if fields["tokenizer"][name] is None:
                del fields["tokenizer"][name]
        for split in fields["splits"].values():
            if split["max_token_id"] is None:
                del split["max_token_id"]
            if not split["unscored"]:
                del split["unscored"]
        return json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @property
    def max_token_id(self) -> int:
        """The highest id that a row may hold: the highest of the vocabulary where an older version did not count it."""
        highest = [split.max_token_id for split in self.splits.values()]
        known = [token for token in highest if token is not None]
        return max(known) if known and len(known) == len(highest) else self.tokenizer.vocab_size - 1

    @property
    def sha256(self) -> str:
        """The fingerprint of the dataset, which covers settings, tokenizer and the digest of every shard."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def parse_manifest(text: str, *, path: str) -> Manifest:
    """Reads manifest.json.

    Raises:
      Refused: not JSON, another schema version, a field missing or unknown.
    """
    try:
        fields = json.loads(text)
        version = fields["schema_version"]
        if version not in SCHEMA_VERSIONS:
            raise Refused(
                f"{path}: schema version {version}, this version of oddsmill reads "
                f"{' and '.join(map(str, SCHEMA_VERSIONS))}; "
                "run the preprocessing again with it"
            )
        splits = {
            name: SplitSummary(**{**split, "shards": [Shard(**shard) for shard in split["shards"]]})
            for name, split in fields["splits"].items()
        }
        nested = {
            "splits": splits,
            "tokenizer": TokenizerSummary(**fields["tokenizer"]),
            "ledger": Ledger(**fields["ledger"]),
        }
        return Manifest(**{**fields, **nested})
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"{path} is damaged ({error}); run the preprocessing again") from error


def read_manifest(folder: str | Path) -> Manifest:
    """Reads the manifest of a preprocessed dataset on a local disk.

    Raises:
      Refused: no such folder, no manifest (preprocessing did not finish), or a damaged one.
    """
    path = Path(folder) / MANIFEST_NAME
    if not Path(folder).is_dir():
        raise Refused(f"{folder}: no such folder; preprocess first: oddsmill pipeline run --output={folder} …")
    if not path.is_file():
        raise Refused(f"{folder} has no {MANIFEST_NAME}: preprocessing did not finish there; run it again")
    return parse_manifest(path.read_text(encoding="utf-8"), path=str(path))


def file_sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged_shards(folder: str | Path, manifest: Manifest, *, digests: bool = True) -> Iterator[str]:
    """Yields a line for each shard on disk that is missing or altered.

    Args:
      digests: compare contents too, not only sizes. Reads every byte (about 1 GB/s).
    """
    for split in manifest.splits.values():
        for shard in split.shards:
            path = os.path.join(folder, shard.name)
            if not os.path.isfile(path):
                yield f"{path} is missing"
            elif os.path.getsize(path) != shard.bytes:
                yield f"{path} has {os.path.getsize(path)} bytes, the manifest says {shard.bytes}"
            elif digests and file_sha256(path) != shard.sha256:
                yield f"{path} was altered: its sha256 is not the manifest's"


def check_shards(folder: str | Path, manifest: Manifest) -> None:
    """Refuses a dataset with a missing or altered shard, all of them named at once.

    Raises:
      Refused: as said.
    """
    damage = list(damaged_shards(folder, manifest))
    if damage:
        raise Refused("; ".join(damage) + f". Run the preprocessing of {folder} again")
