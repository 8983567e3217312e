"""Writing one shard: order, duplicates, packing, records. An index is in memory; the ids lie in a temporary file."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os.path import join
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from array_record.python.array_record_module import ArrayRecordWriter

from oddsmill.pipeline import progress
from oddsmill.pipeline.config import DatasetSettings
from oddsmill.pipeline.formats.pairs import Notes
from oddsmill.pipeline.output.blocks import Items, open_blocks
from oddsmill.pipeline.output.folder import publishing, shard_name
from oddsmill.pipeline.output.placing import PLACED_PAIRS
from oddsmill.pipeline.output.rejects import RejectBlocks
from oddsmill.pipeline.output.rows import lay_rows
from oddsmill.pipeline.output.tally import SIDES, Tally, rows_at_a_time
from oddsmill.pipeline.tokens.packing import pack, pack_in_order
from oddsmill.schemas.dataset_files import open_shard
from oddsmill.schemas.drops import DropReason, Origin, Reject
from oddsmill.schemas.errors import Refused, RunFailed
from oddsmill.schemas.locks.lock import Lock
from oddsmill.schemas.manifest import Shard, Split, TokenizerSummary, file_sha256
from oddsmill.schemas.provenance import provenance_path, write_provenance
from oddsmill.schemas.record import encode_rows

# One record a group: the trainer reads records at random. Levels above 3 only cost time.
WRITER_OPTIONS = "group_size:1,zstd:3"


class ShardReport(NamedTuple):
    """The report of one written shard; the numbers of the manifest are sums of these.

    Attributes:
      digests: of the file with the sources of its pairs, by its name in the folder.
    """

    split: Split
    shard: Shard
    tally: Tally
    notes: dict[str, int]
    exact_duplicates: int
    writer_options: str
    digests: Mapping[str, str] = {}


def write_shard(
    blocks: Iterable[bytes],
    *,
    split: Split,
    index: int,
    count: int,
    config: DatasetSettings,
    output: str,
    tokenizer: TokenizerSummary,
    paths: Sequence[str],
    lock: Lock | None = None,
) -> tuple[ShardReport, list[tuple[int, bytes]]]:
    """Writes shard `index` of `count` with the pairs of `blocks` (see `ShardBlocks`), whatever their order.

    Args:
      output: the folder of the dataset.
      paths: the input files, by the number that an `Origin` has.
      lock: that of the output folder.

    Returns: the report, and the duplicates that were dropped, as blocks of rejects with the number of their file.

    Raises:
      Refused: it cannot be written.
      RunFailed: the file on disk is not what was written, or the lock is lost.
    """
    with open_blocks(PLACED_PAIRS, blocks) as items:
        columns = items.columns
        pairs = items.take(np.lexsort([columns[name] for name in ("row", "file", "id", "rank")]))
        # All pairs of an id meet here, since the id decides the shard; the first of them in order is kept.
        ids, first = np.unique(pairs.columns["id"], return_index=True)
        repeated = np.delete(np.arange(len(pairs)), first)
        rejects: list[tuple[int, bytes]] = []
        if config.dedup == "exact":
            kept = pairs.take(first[np.searchsorted(ids, pairs.columns["id"][repeated])])
            rejects = list(_reject_duplicates(pairs.take(repeated), kept, paths))
            pairs = pairs.take(np.sort(first))
            progress.count(drops=len(repeated), pairs=-len(repeated))
        rows = _rows(np.sum([pairs.columns[side] for side in SIDES], axis=0).tolist(), config)
        name = shard_name(split, index, count)
        tally, at_a_time = Tally(), rows_at_a_time(config.slots)
        with publishing(join(output, name), lock) as path:
            with _writing(path, name) as writer:
                for begin in range(0, len(rows), at_a_time):
                    few = lay_rows(rows[begin : begin + at_a_time], pairs, vocab_size=tokenizer.vocab_size)
                    tally.add(few.joined, few.counts, tokenizer)
                    for record in encode_rows(*few, row_length=config.slots, pad_id=tokenizer.pad_id):
                        writer.write(record)
                    progress.count(rows_written=len(few.counts))
            shard, options = _inspect(path, name=name, records=len(rows))
        sources = provenance_path("", name)
        digest = _write_provenance(join(output, sources), pairs, rows, paths, lock)
        report = ShardReport(
            split=split,
            shard=shard,
            tally=tally,
            notes={note.label: int((pairs.columns["notes"] & int(note) > 0).sum()) for note in Notes},
            exact_duplicates=0 if config.dedup == "exact" else len(repeated),
            writer_options=options,
            digests={sources: digest},
        )
    return report, rejects


@contextmanager
def _writing(path: str, name: str) -> Iterator[ArrayRecordWriter]:
    writer = ArrayRecordWriter(path, WRITER_OPTIONS)
    try:
        yield writer
        writer.close()
    except RuntimeError as error:  # all that the writer ever raises
        problem = str(error).partition(";")[0]
        raise Refused(f"{name}: {problem}; free some space, or give another --output, and run again") from error


def _reject_duplicates(pairs: Items, kept: Items, paths: Sequence[str]) -> Iterator[tuple[int, bytes]]:
    """Yields the rejects of duplicate pairs, as blocks; `kept` are the pairs that they repeat."""
    rejects = RejectBlocks(paths)
    for index in range(len(pairs)):
        origin, twin = (Origin(int(of["file"][index]), int(of["row"][index])) for of in (pairs.columns, kept.columns))
        raw = pairs.payload("raw", index).decode()
        rejects.add(
            Reject(origin, DropReason.DUPLICATE, f"row {twin.row} of {paths[twin.file]}, which is kept, has them", raw)
        )
        yield from rejects.full()
    yield from rejects.rest()


def _rows(lengths: Sequence[int], config: DatasetSettings) -> list[list[int]]:
    if not config.packing:
        return [[index] for index in range(len(lengths))]
    return (pack if config.shuffle else pack_in_order)(lengths, row_length=config.slots)


def _inspect(path: str, *, name: str, records: int) -> tuple[Shard, str]:
    """Reads back what the disk has, since a file cut short opens without an error and says 0 records."""
    try:
        options = open_shard(path, records=records).writer_options_string()
    except (OSError, ValueError) as error:
        raise RunFailed(
            f"{name}: {records} records were written, and are not on the disk ({error}). Is it full?"
        ) from error
    return Shard(name=name, records=records, bytes=os.path.getsize(path), sha256=file_sha256(path)), options


def _write_provenance(
    path: str, pairs: Items, rows: Sequence[Sequence[int]], paths: Sequence[str], lock: Lock | None
) -> str:
    """Writes a line for each pair, in stored order: its row in the shard, its id, its prompt's, its source.

    Returns: the digest of the file.
    """
    members = np.array([member for row in rows for member in row], np.int64)
    stored = pairs.take(members).columns
    files = pa.DictionaryArray.from_arrays(pa.array(stored["file"]), pa.array(paths, pa.string()))
    columns = {
        "row": pa.array(np.repeat(np.arange(len(rows)), [len(row) for row in rows]), pa.int64()),
        "id": pa.array(stored["id"], pa.uint64()),
        "prompt_id": pa.array(stored["prompt_id"], pa.uint64()),
        "file": files,
        "file_row": pa.array(stored["row"], pa.int64()),
    }
    with publishing(path, lock) as temporary:
        write_provenance(temporary, pa.table(columns))
        return file_sha256(temporary)
