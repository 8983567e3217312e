"""Placing tokenized pairs: each goes, with others of its shard, in a block for the shuffle."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from oddsmill.pipeline.config import DatasetSettings
from oddsmill.pipeline.formats.keys import Places, ShardKey, place_pairs
from oddsmill.pipeline.formats.pairs import Pair, TokenizedPairs
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.pipeline.output.blocks import Compression, encode_block
from oddsmill.pipeline.output.tally import SIDES
from oddsmill.schemas.drops import Dropped, drop_of
from oddsmill.schemas.manifest import Split
from oddsmill.schemas.record import token_dtype

# The columns of a block, a line a pair. `ids` holds prompt, chosen and rejected one after another, in the dtype of the
# shard; `unscored` the runs of unscored tokens, counted from the first of `ids`, [m, 2] int32; `raw` the row that the
# pair comes from, where a duplicate is to be dropped, else nothing.
PLACED_PAIRS = pa.schema(
    {
        "rank": pa.uint64(),
        "id": pa.uint64(),
        "prompt_id": pa.uint64(),
        "file": pa.int32(),
        "row": pa.int64(),
        **dict.fromkeys(SIDES, pa.int32()),
        "truncated": pa.uint8(),
        "notes": pa.int64(),
        "ids": pa.large_binary(),
        "unscored": pa.large_binary(),
        "raw": pa.large_binary(),
    }
)
_BLOCK_BYTES = 8 << 20  # ids in blocks of some hundred kB a shard: compressed as well as larger ones


class ShardBlocks:
    """Gathers tokenized pairs into blocks for the shuffle: one shard's to a block."""

    def __init__(
        self,
        config: DatasetSettings,
        num_shards: Mapping[Split, int],
        vocab_size: int,
        compression: Compression = "zstd",
    ):
        """Starts with nothing gathered.

        Args:
          num_shards: of each split that the dataset has.
        """
        self._config, self._num_shards, self._dtype = config, num_shards, token_dtype(vocab_size)
        self._bytes, self._compression = 0, compression
        self._gathered: list[tuple[pa.RecordBatch, Places]] = []

    def add(self, rows: Sequence[RawRow], pairs: Sequence[Pair], tokenized: TokenizedPairs) -> dict[int, Dropped]:
        """Gathers the pairs of a batch, all at a time: that costs less than half of what they cost one by one.

        Args:
          rows: the row that each pair comes from.

        Returns: the numbers of the pairs that have ids and cannot be placed, and why.
        """
        if not len(tokenized.numbers):
            return {}
        try:
            self._add(rows, pairs, tokenized)
        except Exception as error:
            dropped = drop_of(error)
            if len(tokenized.numbers) == 1:
                return dict.fromkeys(tokenized.numbers.tolist(), dropped)
            return {
                number: drop
                for number, of_pair in tokenized.by_number().items()
                for drop in self.add(rows, pairs, TokenizedPairs.of({number: of_pair})).values()
            }
        return {}

    def full(self) -> Iterator[tuple[ShardKey, bytes]]:
        """Yields the blocks, with their shards, once they are large enough to send."""
        if self._bytes >= _BLOCK_BYTES:
            yield from self.rest()

    def rest(self) -> Iterator[tuple[ShardKey, bytes]]:
        """Yields the blocks of all that is gathered, however little."""
        gathered, self._gathered, self._bytes = self._gathered, [], 0
        if not gathered:
            return
        pairs = pa.Table.from_batches([pairs for pairs, _ in gathered])
        shards = np.concatenate([2 * places.shards + places.is_eval for _, places in gathered])
        pairs = pairs.take(pa.array(np.argsort(shards, kind="stable"))).combine_chunks()
        start = 0
        for shard, count in zip(*np.unique(shards, return_counts=True), strict=True):
            block = encode_block(pairs.slice(start, count), self._compression)
            yield ("eval" if shard % 2 else "train", int(shard) // 2), block
            start += count

    def _add(self, rows: Sequence[RawRow], pairs: Sequence[Pair], tokenized: TokenizedPairs) -> None:
        numbers = tokenized.numbers.tolist()
        rows = [rows[number] for number in numbers]
        origins = [row.origin for row in rows]
        places = place_pairs([pairs[number] for number in numbers], origins, self._config, self._num_shards)
        raw = [_raw(row) for row in rows] if self._config.dedup == "exact" else [b""] * len(rows)
        columns = [
            places.ranks,
            places.ids,
            places.prompt_ids,
            *np.array(origins, np.int64).T,
            *tokenized.lengths.T,
            tokenized.truncated,
            tokenized.notes,
            _binary(tokenized.ids.astype(self._dtype), tokenized.lengths.sum(axis=1)),
            tokenized.unscored_as_bytes(),
            raw,
        ]
        arrays = [pa.array(values, kind) for values, kind in zip(columns, PLACED_PAIRS.types, strict=True)]
        batch = pa.record_batch(arrays, PLACED_PAIRS)
        self._gathered.append((batch, places))
        self._bytes += batch.nbytes


def _raw(row: RawRow) -> bytes:
    """Returns the text of a row that was parsed, whose bytes are UTF-8."""
    return row.content if isinstance(row.content, bytes) else row.as_text().encode()


def _binary(values: np.ndarray, counts: np.ndarray) -> pa.LargeBinaryArray:
    """Returns the bytes of so many values for each line."""
    offsets = np.append(0, np.cumsum(counts * values.itemsize, dtype=np.int64))
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(counts), [None, pa.py_buffer(offsets), pa.py_buffer(values)]
    )
