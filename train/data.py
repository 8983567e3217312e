"""From shards to batches: every process reads its own rows; the iterator's position can be saved.

Axes: B = rows a process holds of a batch, L = row length, N = the most pairs a row holds.
"""

import os
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np

from schemas.layout import derive
from schemas.manifest import Manifest, SplitSummary
from schemas.record import check_row, decode_row
from train.config import TrainConfig

Batch = dict[str, np.ndarray]
# Arrays that go to the devices; `pair_ids` stays on the host.
DEVICE_ARRAYS = ("inputs", "labels", "branch", "segment", "position", "end")


def num_rows(manifest: Manifest, split: str) -> int:
    return manifest.splits[split].rows if split in manifest.splits else 0


def empty_row(row_length: int, max_pairs: int) -> Batch:
    """A row of padding alone: it adds nothing to any sum. Fills up the last batch of an evaluation."""
    arrays = {name: np.zeros(row_length, np.int32) for name in DEVICE_ARRAYS}
    return {**arrays, "pair_ids": np.zeros(max_pairs, np.uint64)}


class _DecodeRow:
    """record (no bytes: an empty row) -> the six derived arrays [L] int32 and `pair_ids` [N] uint64, padded with 0."""

    def __init__(self, manifest: Manifest, split: SplitSummary):
        self._row_length = manifest.row_length
        self._vocab_size = manifest.tokenizer.vocab_size
        self._max_pairs = split.max_pairs_per_row

    def __call__(self, record: bytes) -> Batch:
        if not record:
            return empty_row(self._row_length, self._max_pairs)
        row = decode_row(record)
        check_row(row, row_length=self._row_length, vocab_size=self._vocab_size, max_pairs=self._max_pairs)
        pair_ids = np.zeros(self._max_pairs, np.uint64)
        pair_ids[: len(row)] = row.pair_ids
        return {**derive(row)._asdict(), "pair_ids": pair_ids}


def stored_rows(folder: str, manifest: Manifest, split: str) -> grain.MapDataset:
    """The records of a split in stored order, random access."""
    summary = manifest.splits[split]
    # Shards in the manifest's order, none found by a pattern: a stray or missing file cannot change the rows.
    paths = [os.path.join(folder, shard.name) for shard in summary.shards if shard.records]
    return grain.MapDataset.source(grain.sources.ArrayRecordDataSource(paths))


def fill_up(rows: int, config: TrainConfig) -> int:
    """The empty rows that an epoch of so many rows ends with: with compat=trl no step holds rows of two epochs."""
    return -rows % config.rows_per_step if config.compat == "trl" else 0


def ordered_rows(folder: str, manifest: Manifest, *, shuffle: bool, seed: int, empty_rows: int = 0) -> grain.MapDataset:
    """The train split, decoded, in the order of a run: epochs follow each other without a seam or an end.

    Args:
      empty_rows: rows of padding at the end of each epoch.
    """
    rows = stored_rows(folder, manifest, "train")
    if shuffle:
        # The seed is given here: one derived from the dataset's depth would change with every step added.
        rows = rows.shuffle(seed=seed)
    if empty_rows:
        rows = grain.MapDataset.concatenate([rows, grain.MapDataset.source([b""] * empty_rows)])
    return rows.repeat().map(_DecodeRow(manifest, manifest.splits["train"]))


def step_pair_ids(
    folder: str, manifest: Manifest, *, rows_per_step: int, shuffle: bool, seed: int, step: int, empty_rows: int = 0
) -> np.ndarray:
    """[rows_per_step, N] uint64: the pairs of all processes' rows of a step, counted from 1."""
    rows = ordered_rows(folder, manifest, shuffle=shuffle, seed=seed, empty_rows=empty_rows)
    return np.stack([rows[index]["pair_ids"] for index in range((step - 1) * rows_per_step, step * rows_per_step)])


def train_batches(
    folder: str,
    manifest: Manifest,
    *,
    rows_per_step: int,
    shuffle: bool,
    seed: int,
    empty_rows: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator[Batch]:
    """An endless iterator over batches of the train split: [B, L] arrays, B = rows_per_step / process_count.

    Epochs follow each other without a seam, each in its own order. The iterator's state is one global
    row index: the same on every process, and valid for another number of processes.

    Args:
      empty_rows: as in `ordered_rows`.
      process_index, process_count: this process's share of every batch (`train.sharding.row_share`).
    """
    batches = grain.experimental.ElasticIterator(
        ordered_rows(folder, manifest, shuffle=shuffle, seed=seed, empty_rows=empty_rows),
        rows_per_step,
        grain.sharding.ShardOptions(shard_index=process_index, shard_count=process_count),
        # One reader thread: decoding holds the interpreter lock, more threads only wait for it.
        read_options=grain.ReadOptions(num_threads=1, prefetch_buffer_size=4),
    )
    return iter(grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=2))


def eval_batches(
    folder: str, manifest: Manifest, *, split: str, batch_size: int, process_index: int, process_count: int
) -> Iterator[Batch]:
    """Each row of a split once, in stored order; the last batch is filled up with empty rows.

    Args:
      batch_size: rows a batch over all processes; a multiple of `process_count`.
      process_index, process_count: this process's share of every batch (`train.sharding.row_share`).
    """
    rows, summary = stored_rows(folder, manifest, split), manifest.splits[split]
    decode = _DecodeRow(manifest, summary)
    filler = empty_row(manifest.row_length, summary.max_pairs_per_row)
    share = batch_size // process_count
    for start in range(0, len(rows), batch_size):
        mine = range(start + process_index * share, start + (process_index + 1) * share)
        batch: list[Any] = [decode(rows[index]) if index < len(rows) else filler for index in mine]
        yield {name: np.stack([row[name] for row in batch]) for name in filler}
