"""Reads shards as batches: every process reads its own rows; the iterator's position can be saved.

Axes: B = rows a process holds of a batch, L = row length, N = the most pairs a row holds.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence

import grain
import numpy as np
from absl import flags

from oddsmill.schemas.errors import RunFailed
from oddsmill.schemas.layout import derive_rows
from oddsmill.schemas.manifest import Manifest, SplitSummary
from oddsmill.schemas.record import Row, check_row, decode_row
from oddsmill.train.data.shard_records import ShardRecords

Batch = dict[str, np.ndarray]
# Arrays that go to the devices; `pair_ids` stays on the host.
DEVICE_ARRAYS = ("inputs", "labels", "branch", "segment", "position", "end")
# Batches come from workers by a pipe: shared memory is 64 MB in a container, and outlives a process that is killed.
_BY_PIPE = grain.experimental.DatasetOptions(min_shm_size=2**62)


def empty_row(row_length: int, max_pairs: int) -> Batch:
    """Returns a row of padding alone, which adds nothing to any sum."""
    arrays = {name: np.zeros(row_length, np.int32) for name in DEVICE_ARRAYS}
    return {**arrays, "pair_ids": np.zeros(max_pairs, np.uint64)}


class _DecodeRows:
    """Decodes B records into the six derived arrays, [B, L] int32, and `pair_ids`, [B, N] uint64 padded with 0.

    A record without bytes becomes an empty row.
    """

    def __init__(self, manifest: Manifest, split: SplitSummary):
        self._row_length = manifest.row_length
        self._vocab_size = manifest.tokenizer.vocab_size
        self._max_pairs = split.max_pairs_per_row
        none = np.zeros(0, np.int32)
        self._empty = Row(
            tokens=np.zeros(self._row_length, np.int32),
            prompt_lengths=none, chosen_lengths=none, rejected_lengths=none, pair_ids=none, truncated=none,
        )  # fmt: skip

    def __call__(self, records: Sequence[bytes]) -> Batch:
        rows = [decode_row(record, row_length=self._row_length) if record else self._empty for record in records]
        pair_ids = np.zeros((len(rows), self._max_pairs), np.uint64)
        for row, ids in zip(rows, pair_ids, strict=True):
            if row is not self._empty:
                check_row(row, row_length=self._row_length, vocab_size=self._vocab_size, max_pairs=self._max_pairs)
            ids[: len(row)] = row.pair_ids
        return {**derive_rows(rows)._asdict(), "pair_ids": pair_ids}


def stored_rows(folder: str, manifest: Manifest, split: str) -> grain.MapDataset:
    """Returns the records of a split in stored order, with random access."""
    summary = manifest.splits[split]
    # Shards in the manifest's order, none found by a pattern: a stray or missing file cannot change the rows.
    paths = [os.path.join(folder, shard.name) for shard in summary.shards]
    return grain.MapDataset.source(ShardRecords(paths, [shard.records for shard in summary.shards]))


def ordered_rows(folder: str, manifest: Manifest, *, shuffle: bool, seed: int, empty_rows: int = 0) -> grain.MapDataset:
    """Returns the records of the train split in the order of a run, epoch after epoch without an end.

    Args:
      empty_rows: rows of padding (no bytes) at the end of each epoch.
    """
    rows = stored_rows(folder, manifest, "train")
    if shuffle:
        # The seed is given here: one derived from the dataset's depth would change with every step added.
        rows = rows.shuffle(seed=seed)
    if empty_rows:
        rows = grain.MapDataset.concatenate([rows, grain.MapDataset.source([b""] * empty_rows)])
    return rows.repeat()


def step_pair_ids(
    folder: str, manifest: Manifest, *, rows_per_step: int, shuffle: bool, seed: int, step: int, empty_rows: int = 0
) -> np.ndarray:
    """Returns the ids of the pairs in all processes' rows of a step, [rows_per_step, N] uint64; steps count from 1."""
    rows = ordered_rows(folder, manifest, shuffle=shuffle, seed=seed, empty_rows=empty_rows)
    decode = _DecodeRows(manifest, manifest.splits["train"])
    return decode([rows[index] for index in range((step - 1) * rows_per_step, step * rows_per_step)])["pair_ids"]


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
    num_workers: int = 0,
) -> "TrainBatches":
    """Returns an endless iterator over batches of the train split: [B, L] arrays, B = rows_per_step / process_count.

    Epochs follow each other without a seam, each in its own order. The iterator's state is one global
    row index: the same on every process, and valid for another number of processes or workers.

    Args:
      empty_rows: as in `ordered_rows`.
      process_index, process_count: this process's share of every batch (`oddsmill.train.parallel.sharding.row_share`).
      num_workers: processes of this one's that decode ahead; 0: a thread does.
    """
    rows = ordered_rows(folder, manifest, shuffle=shuffle, seed=seed, empty_rows=empty_rows)
    share = grain.sharding.ShardOptions(shard_index=process_index, shard_count=process_count)
    decode = _DecodeRows(manifest, manifest.splits["train"])
    return TrainBatches(rows, decode, rows_per_step=rows_per_step, share=share, num_workers=num_workers)


class TrainBatches(grain.DatasetIterator[Batch]):
    """The iterator of `train_batches`. Closing it ends its workers.

    grain.experimental.ElasticIterator is the same, but does not let its workers be told to ignore signals.
    """

    def __init__(
        self,
        rows: grain.MapDataset,
        decode: _DecodeRows,
        *,
        rows_per_step: int,
        share: grain.sharding.ShardOptions,
        num_workers: int,
    ):
        super().__init__()
        self._rows, self._decode, self._share = rows, decode, share
        self._rows_per_step, self._num_workers = rows_per_step, num_workers
        self._next_row = 0  # of all processes
        self._ahead: grain.DatasetIterator[Batch] | None = None  # what reads on from there

    def __next__(self) -> Batch:
        if self._ahead is None:
            self._ahead = self._read_ahead()
        try:
            batch = next(self._ahead)
        except RuntimeError as error:
            if "Worker process was terminated" not in str(error):
                raise
            why = str(error).partition(". ")[0]
            raise RunFailed(
                f"a process of --dataloader_num_workers={self._num_workers} ended ({why}): killed, out of memory, or "
                'begun by a script without `if __name__ == "__main__":`. The same command goes on from the newest '
                "checkpoint, also with fewer of them"
            ) from error
        self._next_row += self._rows_per_step
        return batch

    def get_state(self) -> dict[str, int]:
        return {"global_next_index": self._next_row}

    def set_state(self, state: dict[str, int]) -> None:
        self.close()
        self._next_row = state["global_next_index"]

    def close(self) -> None:
        """Ends the workers; `next` would start new ones."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.close()

    def _read_ahead(self) -> grain.DatasetIterator[Batch]:
        # An end that no run reaches: Grain counts batches of one in floats, and would round the endless length up.
        records = self._rows[self._next_row + self._share.shard_index : 2**52 : self._share.shard_count]
        share = self._rows_per_step // self._share.shard_count
        batches = records.batch(share, batch_fn=list).map(self._decode)
        if not self._num_workers:
            # One thread: decoding holds the interpreter lock, more threads only wait for it.
            return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))
        if not flags.FLAGS.is_parsed():  # Grain 0.2.18 asks for a flag of its own (google/grain#1355)
            flags.FLAGS.mark_as_parsed()
        ahead = batches.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        ahead = grain.experimental.WithOptionsIterDataset(ahead, _BY_PIPE)
        options = grain.MultiprocessingOptions(num_workers=self._num_workers, per_worker_buffer_size=2)
        return iter(ahead.mp_prefetch(options, worker_init_fn=_begin_worker))


def _begin_worker(index: int, count: int) -> None:
    """Makes a worker ignore signals, which are the main process's to handle, and end when that process is killed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def eval_batches(
    folder: str, manifest: Manifest, *, split: str, batch_size: int, process_index: int, process_count: int
) -> Iterator[Batch]:
    """Yields each row of a split once, in stored order; the last batch is filled up with empty rows.

    Args:
      batch_size: rows a batch over all processes; a multiple of `process_count`.
      process_index, process_count: this process's share of every batch (`oddsmill.train.parallel.sharding.row_share`).
    """
    rows, decode = stored_rows(folder, manifest, split), _DecodeRows(manifest, manifest.splits[split])
    share = batch_size // process_count
    for start in range(0, len(rows), batch_size):
        mine = range(start + process_index * share, start + (process_index + 1) * share)
        yield decode([rows[index] if index < len(rows) else b"" for index in mine])
