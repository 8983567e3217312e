"""Writing one shard: order, duplicates, packing, records. Memory is bounded by the shard."""

import hashlib
import os
import pickle
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from pipeline.config import PreprocessConfig
from pipeline.drops import DropReason, Origin, Reject
from pipeline.output import provenance_path, publishing, shard_name
from pipeline.packing import pack, pack_in_order
from pipeline.tally import Tally
from schemas.errors import RunFailed
from schemas.manifest import Shard, Split, TokenizerSummary
from schemas.record import Pair, Truncated, encode_row, make_row

# One record a group: the trainer reads records at random. Levels above 3 only cost time.
WRITER_OPTIONS = "group_size:1,zstd:3"
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


class PlacedPair(NamedTuple):
    """A tokenized pair on its way to its shard. Sorted as tuples, pairs are in the order of the shard.

    Attributes:
      ids: prompt, chosen and rejected one after another, int32.
      raw: the row it comes from, where a duplicate is to be dropped; else empty.
    """

    rank: int
    id: int
    ids: bytes
    lengths: tuple[int, int, int]
    truncated: int
    boundary_merged: bool
    prompt_id: int
    origin: Origin
    raw: str


class ShardReport(NamedTuple):
    """What was written; the numbers of the manifest are sums of these."""

    split: Split
    shard: Shard
    tally: Tally
    boundary_merged: int
    exact_duplicates: int
    writer_options: str


def freeze(pairs: list[PlacedPair]) -> bytes:
    """Pairs as bytes for the shuffle. Beam's own coder would take 20 us a pair."""
    return pickle.dumps(pairs, protocol=5)


def write_shard(
    blocks: Iterable[bytes],
    *,
    split: Split,
    index: int,
    count: int,
    config: PreprocessConfig,
    tokenizer: TokenizerSummary,
    paths: Sequence[str],
) -> tuple[ShardReport, list[Reject]]:
    """Writes shard `index` of `count` with the pairs of `blocks` (see `freeze`), whatever their order.

    Args:
      paths: the input files, by the number that an `Origin` has.

    Raises:
      RunFailed: the file on disk is not what was written.
    """
    pairs = sorted(pair for block in blocks for pair in pickle.loads(block))
    first: dict[int, PlacedPair] = {}  # all pairs of an id meet here: the id decides the shard
    for pair in pairs:
        first.setdefault(pair.id, pair)
    repeated = [pair for pair in pairs if first[pair.id] is not pair]
    rejects: list[Reject] = []
    if config.dedup == "exact":
        pairs = list(first.values())
        rejects = [Reject(pair.origin, DropReason.DUPLICATE, f"id {pair.id:016x}", pair.raw) for pair in repeated]
    rows = _rows(pairs, config)
    name = shard_name(split, index, count)
    tally = Tally()
    with publishing(os.path.join(config.output, name)) as path:
        writer = ArrayRecordWriter(path, WRITER_OPTIONS)
        for members in rows:
            row = make_row(
                [_to_pair(pairs[member]) for member in members],
                row_length=config.slots,
                pad_id=tokenizer.pad_id,
                vocab_size=tokenizer.vocab_size,
            )
            tally.add_row(row)
            writer.write(encode_row(row))
        writer.close()
        shard, options = _inspect(path, name=name, records=len(rows))
    _write_provenance(provenance_path(config.output, name), pairs, rows, paths)
    report = ShardReport(
        split=split,
        shard=shard,
        tally=tally,
        boundary_merged=sum(pair.boundary_merged for pair in pairs),
        exact_duplicates=0 if config.dedup == "exact" else len(repeated),
        writer_options=options,
    )
    return report, rejects


def _rows(pairs: Sequence[PlacedPair], config: PreprocessConfig) -> list[list[int]]:
    if not config.packing:
        return [[index] for index in range(len(pairs))]
    lengths = [sum(pair.lengths) for pair in pairs]
    return (pack if config.shuffle else pack_in_order)(lengths, row_length=config.slots)


def _to_pair(placed: PlacedPair) -> Pair:
    ids, (prompt, chosen, _) = memoryview(placed.ids).cast("i"), placed.lengths
    return Pair(
        prompt=ids[:prompt],
        chosen=ids[prompt : prompt + chosen],
        rejected=ids[prompt + chosen :],
        id=placed.id,
        truncated=Truncated(placed.truncated),
    )


def _inspect(path: str, *, name: str, records: int) -> tuple[Shard, str]:
    """Reads back what the disk has: a file cut short opens without an error and says 0 records."""
    reader = ArrayRecordReader(path, _READER_OPTIONS)
    found, options = reader.num_records(), reader.writer_options_string()
    reader.close()
    if found != records:
        raise RunFailed(f"{name}: {records} records were written, {found} are on disk. Is the disk full?")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Shard(name=name, records=records, bytes=os.path.getsize(path), sha256=digest), options


def _write_provenance(
    path: str, pairs: Sequence[PlacedPair], rows: Sequence[Sequence[int]], paths: Sequence[str]
) -> None:
    """One line a pair, in stored order: its row in the shard, its id, its prompt's, its file and row there."""
    stored = [(row, pairs[member]) for row, members in enumerate(rows) for member in members]
    files = pa.DictionaryArray.from_arrays(
        pa.array([pair.origin.file for _, pair in stored], pa.int32()), pa.array(paths, pa.string())
    )
    columns = {
        "row": pa.array([row for row, _ in stored], pa.int64()),
        "id": pa.array([pair.id for _, pair in stored], pa.uint64()),
        "prompt_id": pa.array([pair.prompt_id for _, pair in stored], pa.uint64()),
        "file": files,
        "file_row": pa.array([pair.origin.row for _, pair in stored], pa.int64()),
    }
    with publishing(path) as temporary:
        pq.write_table(pa.table(columns), temporary)
