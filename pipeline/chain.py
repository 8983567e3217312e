"""The chain from raw rows to blocks of tokenized pairs: parse, render, tokenize, place. It needs no Beam.

A transform calls it in its own process; where a machine has several cores, processes of our own do.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from oddsmill.pipeline import progress
from oddsmill.pipeline.dataflow import check_libraries
from oddsmill.pipeline.formats import keys
from oddsmill.pipeline.formats.keys import ShardKey
from oddsmill.pipeline.formats.pairs import Pair
from oddsmill.pipeline.input.rows import RawRow, make_row
from oddsmill.pipeline.output.blocks import Compression
from oddsmill.pipeline.output.placing import ShardBlocks
from oddsmill.pipeline.output.rejects import RejectBlocks
from oddsmill.pipeline.output.seen import Seen, add_seen, see_columns
from oddsmill.pipeline.output.shards import ShardReport, write_shard
from oddsmill.pipeline.resolved_run import ResolvedRun
from oddsmill.pipeline.tokens.tokenization import tokenize_batch
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.drops import Dropped, Reject
from oddsmill.schemas.manifest import TOKENIZER_FOLDER
from oddsmill.schemas.stores import fetch_folder

Written = tuple[ShardReport, list[tuple[int, bytes]]]


class Made(NamedTuple):
    """The blocks that a chain has ready.

    Attributes:
      digest: the sum of the fingerprints of the rows that it was given last.
      blocks: blocks of pairs, as `write_shard` takes them, each with the shard that they belong to.
      rejects: blocks of rejects, as `write_rejects` takes them, each with the number of their file.
      seen: the account of all rows since the last `finish`, which alone gives one.
    """

    digest: int
    blocks: Sequence[tuple[ShardKey, bytes]]
    rejects: Sequence[tuple[int, bytes]]
    seen: Seen | None = None


class Chain:
    """Takes batches of raw rows; gives blocks once they are large enough, and the rest in the end."""

    def __init__(self, resolved: ResolvedRun, tokenizer: Tokenizer, compression: Compression = "zstd"):
        """Starts with nothing gathered.

        Args:
          tokenizer: that of `load_copy`.
          compression: of the blocks of pairs.
        """
        self._resolved, self._tokenizer, self._compression = resolved, tokenizer, compression
        self._start()

    def add(self, batch: Sequence[RawRow]) -> Made:
        """Takes a batch to its pairs and gathers them; returns the blocks that are large enough.

        Args:
          batch: rows of one file that are not parsed yet.

        Raises:
          Refused: a row holds messages and the tokenizer has no chat template.
        """
        rows = [make_row(row.origin, row.content, row.problem) for row in batch]
        digest = fingerprint_rows(rows)  # before a user's function alters the rows
        self._digest += digest
        self._rows.update({rows[0].origin.file: len(rows)})
        parsed = self._parse(rows)
        self._tokenize(parsed)
        return Made(digest, list(self._blocks.full()), list(self._rejects.full()))

    def finish(self) -> Made:
        """Returns all that is gathered, and the account of the rows."""
        seen = Seen(dict(self._rows), self._digest % keys.FINGERPRINT_MODULUS, dict(self._extra_pairs), self._not_read)
        made = Made(0, list(self._blocks.rest()), list(self._rejects.rest()), seen)
        self._start()
        return made

    def _start(self) -> None:
        resolved, self._digest = self._resolved, 0
        self._blocks = ShardBlocks(
            resolved.config, resolved.num_shards, resolved.tokenizer.vocab_size, self._compression
        )
        self._rejects = RejectBlocks(resolved.paths)
        self._rows, self._extra_pairs = Counter[int](), Counter[int]()
        self._not_read: dict[str, int] = {}

    def _parse(self, rows: Sequence[RawRow]) -> list[tuple[RawRow, Pair]]:
        parsed: list[tuple[RawRow, Pair]] = []
        not_read = Counter[str]()
        for row in rows:
            file = row.origin.file
            try:
                pairs = self._resolved.rules.parse_row(row, source=self._resolved.sources[file], not_read=not_read)
            except Dropped as dropped:
                self._reject(row, dropped)
                continue
            parsed += [(row, pair) for pair in pairs]
            if len(pairs) > 1:
                self._extra_pairs[file] += len(pairs) - 1
        if not_read:
            both = (Seen(not_read=self._not_read), Seen(not_read=see_columns(not_read)))
            self._not_read = dict(add_seen(both).not_read)
        return parsed

    def _tokenize(self, parsed: Sequence[tuple[RawRow, Pair]]) -> None:
        resolved = self._resolved
        rows, pairs = [row for row, _ in parsed], [pair for _, pair in parsed]
        made = tokenize_batch(pairs, self._tokenizer, resolved.rules, resolved.config)
        not_placed = self._blocks.add(rows, pairs, made)
        for dropped in (made.dropped, not_placed):
            for number, drop in dropped.items():
                self._reject(rows[number], drop)
        progress.count(pairs=len(made.numbers) - len(not_placed))

    def _reject(self, row: RawRow, dropped: Dropped) -> None:
        progress.count(drops=1)
        self._rejects.add(Reject(row.origin, dropped.reason, dropped.detail, row.as_text()))


def load_copy(resolved: ResolvedRun) -> Tokenizer:
    """Loads the tokenizer's copy in the output folder: workers need no other file of the launcher's.

    Raises:
      Refused: it cannot be loaded, or the engine of the run is not here as the launcher has it.
    """
    check_libraries(resolved.engine.libraries)
    tokenizer = load_tokenizer(fetch_folder(os.path.join(resolved.output, TOKENIZER_FOLDER)))
    tokenizer.use_engine(resolved.engine)
    return tokenizer


def write_shard_of(resolved: ResolvedRun, shard: ShardKey, blocks: Iterable[bytes]) -> Written:
    """Writes a shard of a run from its blocks. Returns and raises: as `write_shard`."""
    split, index = shard
    return write_shard(
        blocks,
        split=split,
        index=index,
        count=resolved.num_shards[split],
        config=resolved.config,
        output=resolved.output,
        tokenizer=resolved.tokenizer,
        paths=resolved.paths,
        lock=resolved.lock,
    )


def fingerprint_rows(rows: Sequence[RawRow]) -> int:
    """Returns the sum of the fingerprints of some rows, which does not depend on their order."""
    return sum(keys.fingerprint(row.as_bytes()) for row in rows)
