"""manifest.json: the description of a preprocessed dataset. It is written last, so its presence means done.

It holds nothing that depends on where the run took place (paths, workers, times, the order of the input):
equal rows and settings give an equal manifest, byte for byte. `run.json` beside it keeps the rest.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.record import MAX_ROW_LENGTH, MAX_TOKEN_ID
from oddsmill.schemas.stored.record_stream import PLAIN_VERSION, SCHEMA_VERSIONS
from oddsmill.schemas.typed_json import Count, Digest, Form, Malformed, Range, as_type, parse_json, read_bounded, shown

MANIFEST_NAME = "manifest.json"
TOKENIZER_FOLDER = "tokenizer"
BOS_BEFORE_TEXTS = "BOS before texts"  # the name of this difference in messages
SHARD_NAME = r"(train|eval)-(\d{5,7})-of-(\d{5,7})\.arrayrecord"
# The field of the file that no byte of it can be altered beside. It covers `tokenizer_engine`, which the fingerprint,
# under the same name in run.json, does not.
OWN_DIGEST = "manifest_sha256"
_ADVICE = "run the preprocessing again"
Split = Literal["train", "eval"]
_SplitName = Annotated[str, Form("train|eval", "train or eval")]
_Side = Annotated[str, Form("prompt|chosen|rejected", "prompt, chosen or rejected")]
TokenId = Annotated[int, Range(0, MAX_TOKEN_ID)]
# Names of files of a tokenizer's folder, which never lead out of it.
_FileName = Annotated[
    str, Form(r"(additional_chat_templates/)?[^/\x00-\x1f.][^/\x00-\x1f]{0,250}", "the name of a tokenizer's file")
]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One ArrayRecord file of a split."""

    name: Annotated[str, Form(SHARD_NAME, "a name such as train-00000-of-00004.arrayrecord")]
    records: Count
    bytes: Count
    sha256: Digest


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
    rows: Count
    pairs: Count
    tokens: dict[_Side, Count]
    padding_share: Annotated[float, Range(0, 1)]
    max_pairs_per_row: Annotated[int, Range(0, MAX_ROW_LENGTH)]
    truncated: dict[_Side, Count]
    length_histograms: dict[_Side, dict[Annotated[str, Form(r"[1-9]\d{0,8}", "a length in digits")], Count]]
    unscored: dict[_Side, Count] = field(default_factory=dict)
    max_token_id: Annotated[int, Range(-1, MAX_TOKEN_ID)] | None = None


@dataclass(frozen=True, kw_only=True)
class TokenizerSummary:
    """The tokenizer that the ids come from; its files stand in `tokenizer/` beside the manifest.

    Attributes:
      ids_sha256: the digest of what decides the ids (schemas/chat/identity.py); None in a dataset of an older version.
      adds_bos: BOS begins every text; None in a dataset of an older version.
      turn_end: the ids that the chat template writes after an answer, from the token that ends the turn on.
      turn_start_id: the token that begins a turn; None where text does.
    """

    sha256: dict[_FileName, Digest]
    chat_template_sha256: Digest | None
    bos_id: TokenId | None
    eos_id: TokenId
    pad_id: TokenId
    vocab_size: Annotated[int, Range(1, MAX_TOKEN_ID + 1)]
    turn_end: list[TokenId] = field(default_factory=list)
    turn_start_id: TokenId | None = None
    ids_sha256: Digest | None = None
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

    rows_in: Count
    pairs_out: Count
    drops: dict[str, Count]
    extra_pairs: Count = 0

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
      tokenizer_engine: the library that encoded the texts (schemas/engines/). It has no part in a byte, so the
        fingerprint does not cover it; None where an earlier version did not say.
    """

    schema_version: int = PLAIN_VERSION
    tool_version: str
    settings: dict[str, Any]
    tokenizer: TokenizerSummary
    source_fingerprint: str
    row_length: Annotated[int, Range(2, MAX_ROW_LENGTH)]
    splits: dict[_SplitName, SplitSummary]
    ledger: Ledger
    counts: dict[str, Count]
    not_read: dict[str, Count] | None = None
    writer_options: str
    libraries: dict[str, str] = field(default_factory=dict)
    tokenizer_engine: Annotated[str, Form("tokenizers|fastokens", "tokenizers or fastokens")] | None = None

    def to_json(self) -> str:
        """Returns the text of manifest.json; equal manifests give equal text. It holds the digest of all else in it."""
        return _as_text(self._all_fields() | {OWN_DIGEST: self.content_sha256})

    @property
    def content_sha256(self) -> str:
        """The digest of all that manifest.json holds beside it."""
        return _digest(self._all_fields())

    def _all_fields(self) -> dict[str, Any]:
        engine = {} if self.tokenizer_engine is None else {"tokenizer_engine": self.tokenizer_engine}
        return self._fields() | engine

    def _fields(self) -> dict[str, Any]:
        """Returns what the fingerprint covers."""
        fields = dataclasses.asdict(self)
        del fields["tokenizer_engine"]
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
        return fields

    @property
    def max_token_id(self) -> int:
        """The highest id that a row may hold: the highest of the vocabulary where an older version did not count it."""
        highest = [split.max_token_id for split in self.splits.values()]
        known = [token for token in highest if token is not None]
        return max(known) if known and len(known) == len(highest) else self.tokenizer.vocab_size - 1

    @property
    def sha256(self) -> str:
        """The fingerprint of the dataset, which covers settings, tokenizer and the digest of every shard."""
        return _digest(self._fields())


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(_as_text(fields).encode()).hexdigest()


def _as_text(fields: dict[str, Any]) -> str:
    return json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def parse_manifest(content: bytes | str, *, path: str) -> Manifest:
    """Reads manifest.json, which may have been altered: the type and the bounds of each field, then its sums.

    Raises:
      Refused: no JSON, another schema version, a field missing, unknown, of another type or out of its bounds, numbers
        that contradict each other, or content that is not what its own digest says.
    """
    try:
        fields = parse_json(content)
        if not isinstance(fields, dict):
            raise Malformed(f"it holds {shown(fields)}, no object")
        version = as_type(int, fields.get("schema_version"), "schema_version")
        if version not in SCHEMA_VERSIONS:
            raise Refused(
                f"{path}: schema version {version}, this version of oddsmill reads "
                f"{' and '.join(map(str, SCHEMA_VERSIONS))}; {_ADVICE} with it"
            )
        digest = as_type(Digest | None, fields.pop(OWN_DIGEST, None), OWN_DIGEST)  # earlier versions had none
        manifest: Manifest = as_type(Manifest, fields)
        if found := list(islice(contradictions(manifest), 5)):
            raise Malformed("; ".join(found))
        if digest not in (None, found_digest := manifest.content_sha256):
            raise Malformed(f"it was altered: its content has the sha256 {found_digest}, {OWN_DIGEST} is {digest}")
    except Malformed as problem:
        raise Refused(f"{path} is damaged ({problem}); {_ADVICE}") from problem
    return manifest


def contradictions(manifest: Manifest) -> Iterator[str]:
    """Yields what cannot be true of a dataset at once, each by the fields that say it."""
    ledger, length, vocab = manifest.ledger, manifest.row_length, manifest.tokenizer.vocab_size
    if not ledger.balances():
        yield f"the ledger does not balance: {shown(dataclasses.asdict(ledger))}"
    pairs = sum(split.pairs for split in manifest.splits.values())
    if pairs != ledger.pairs_out:
        yield f"ledger.pairs_out={ledger.pairs_out}: the splits have {pairs}"
    longest = manifest.settings.get("max_length")
    if type(longest) is not int or not 2 <= longest <= length:
        yield f"settings.max_length={shown(longest)}: must be a whole number from 2 to row_length={length}"
    if "tokenizer.json" not in manifest.tokenizer.sha256:
        yield "tokenizer.sha256 lacks tokenizer.json"
    ids = ("bos_id", "eos_id", "pad_id", "turn_start_id")
    for name, value in [(name, getattr(manifest.tokenizer, name)) for name in ids] + [
        ("turn_end", token) for token in manifest.tokenizer.turn_end
    ]:
        if value is not None and value >= vocab:
            yield f"tokenizer.{name}={value}: must be below vocab_size={vocab}"
    if not manifest.splits:
        yield "splits is empty"
    for name, split in manifest.splits.items():
        for problem in _contradictions_of(name, split, length, vocab):
            yield f"splits.{name}.{problem}"


def _contradictions_of(name: str, split: SplitSummary, length: int, vocab: int) -> Iterator[str]:
    names = [f"{name}-{index:05d}-of-{len(split.shards):05d}.arrayrecord" for index in range(len(split.shards))]
    for index, (shard, expected) in enumerate(zip(split.shards, names, strict=True)):
        if shard.name != expected:
            yield f"shards[{index}].name={shown(shard.name)}: must be {expected}"
    records = sum(shard.records for shard in split.shards)
    if split.rows != records:
        yield f"rows={split.rows}: the shards have {records} records"
    most = split.max_pairs_per_row
    if not max(split.rows, most) <= split.pairs <= split.rows * most:
        yield f"pairs={split.pairs}: there are {split.rows} rows of 1 to {most} pairs"
    if 3 * most > length:  # each pair has a token of the prompt and of each answer
        yield f"max_pairs_per_row={most}: a row of {length} slots cannot hold so many"
    for field_name in ("tokens", "truncated", "length_histograms"):
        missing = {"prompt", "chosen", "rejected"} - getattr(split, field_name).keys()
        if missing:
            yield f"{field_name} lacks {', '.join(sorted(missing))}"
    tokens = sum(split.tokens.values())
    if tokens > split.rows * length or any(count < split.pairs for count in split.tokens.values()):
        yield f"tokens={shown(split.tokens)}: {split.pairs} pairs in {split.rows} rows of {length} cannot have so many"
    elif split.rows and abs(1 - tokens / (split.rows * length) - split.padding_share) > 1e-5:
        yield f"padding_share={split.padding_share}: {tokens} of {split.rows * length} slots hold a token"
    for side, histogram in split.length_histograms.items():
        if sum(histogram.values()) != split.pairs:
            yield f"length_histograms.{side} counts {sum(histogram.values())} pairs, there are {split.pairs}"
        wrong = next((key for key in histogram if int(key) & (int(key) - 1) or int(key) >= 2 * length), None)
        if wrong is not None:
            yield f"length_histograms.{side}.{wrong}: must be a power of two below {2 * length}"
    for side, count in split.truncated.items():
        if count > split.pairs:
            yield f"truncated.{side}={count}: there are {split.pairs} pairs"
    for side, count in split.unscored.items():
        if count > split.tokens.get(side, 0):
            yield f"unscored.{side}={count}: there are {split.tokens.get(side, 0)} tokens"
    if split.max_token_id is not None and split.max_token_id >= vocab:
        yield f"max_token_id={split.max_token_id}: must be below vocab_size={vocab}"


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
    return read_manifest_file(path)


def read_manifest_file(path: Path) -> Manifest:
    """Reads a file that holds a manifest.

    Raises:
      Refused: as `parse_manifest`, or it cannot be read.
    """
    try:
        return parse_manifest(read_bounded(path), path=str(path))
    except Malformed as problem:
        raise Refused(f"{path} is damaged ({problem}); {_ADVICE}") from problem
    except OSError as error:
        raise Refused(f"{path} cannot be read ({error.strerror})") from error


def file_sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
