"""Counting the rows of a split: the writer counts the rows that it writes, `verify` those that it reads."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from oddsmill.pipeline.output.checks import count_stored
from oddsmill.schemas.manifest import Shard, SplitSummary, TokenizerSummary
from oddsmill.schemas.record import Row, Truncated

SIDES = ("prompt", "chosen", "rejected")
ANSWERS = SIDES[1:]
_SLOTS_AT_A_TIME = 1 << 18


@dataclass(kw_only=True)
class Tally:
    """Sums over rows; tallies of parts add up to the tally of the whole."""

    rows: int = 0
    pairs: int = 0
    max_pairs_per_row: int = 0
    max_token_id: int = -1
    tokens: Counter[str] = field(default_factory=Counter)
    unscored: Counter[str] = field(default_factory=Counter)
    truncated: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, Counter[int]] = field(default_factory=lambda: {side: Counter() for side in SIDES})

    def add_rows(self, rows: Sequence[Row], tokenizer: TokenizerSummary) -> None:
        """Counts rows, of which there is at least one; some hundreds at a time cost a tenth of as many alone."""
        self.add(_joined(rows), np.array([len(row) for row in rows]), tokenizer)

    def add(self, joined: Row, counts: np.ndarray, tokenizer: TokenizerSummary) -> None:
        """Counts rows, of which there is at least one.

        Args:
          joined: all their pairs, as if one row held them without padding.
          counts: [rows], the number of pairs in each.
        """
        self.rows += len(counts)
        self.pairs += len(joined)
        self.max_pairs_per_row = max(self.max_pairs_per_row, int(counts.max()))
        self.checks.update(count_stored(joined, tokenizer))
        self.max_token_id = max(self.max_token_id, int(joined.tokens.max()))
        for side in SIDES:
            lengths = getattr(joined, f"{side}_lengths")
            self.tokens[side] += int(lengths.sum(dtype=np.int64))
            exponents = np.frexp(lengths - 1)[1]  # those of the next powers of two
            for exponent, pairs in enumerate(np.bincount(exponents).tolist()):
                if pairs:
                    self.lengths[side][1 << exponent] += pairs
            self.truncated[side] += int(np.count_nonzero(joined.truncated & np.uint8(Truncated[side.upper()])))
        if len(joined.unscored):
            self.unscored.update(dict(zip(SIDES, joined.unscored_tokens().sum(axis=0).tolist(), strict=True)))

    def merge(self, other: "Tally") -> None:
        """Adds the counts of another part."""
        self.rows += other.rows
        self.pairs += other.pairs
        self.max_pairs_per_row = max(self.max_pairs_per_row, other.max_pairs_per_row)
        self.max_token_id = max(self.max_token_id, other.max_token_id)
        self.tokens += other.tokens
        self.unscored += other.unscored
        self.truncated += other.truncated
        self.checks += other.checks
        for side in SIDES:
            self.lengths[side] += other.lengths[side]

    def summary(self, shards: list[Shard], *, row_length: int) -> SplitSummary:
        """Returns the counts as the manifest has them."""
        slots = self.rows * row_length
        return SplitSummary(
            shards=shards,
            rows=self.rows,
            pairs=self.pairs,
            tokens={side: self.tokens[side] for side in SIDES},
            padding_share=round(1 - self.tokens.total() / slots, 6) if slots else 0.0,
            max_pairs_per_row=self.max_pairs_per_row,
            truncated={side: self.truncated[side] for side in SIDES},
            unscored={side: self.unscored[side] for side in ANSWERS} if self.unscored.total() else {},
            max_token_id=self.max_token_id,
            length_histograms={
                side: {str(bound): count for bound, count in sorted(self.lengths[side].items())} for side in SIDES
            },
        )


def rows_at_a_time(row_length: int) -> int:
    """Returns how many rows are best counted together: many, but few enough of long ones to lie in memory."""
    return max(1, _SLOTS_AT_A_TIME // row_length)


def _joined(rows: Sequence[Row]) -> Row:
    """Returns all pairs as if one row held them, without padding."""
    sizes = [row.num_tokens for row in rows]
    starts = np.cumsum([0, *sizes])
    return Row(
        tokens=np.concatenate([row.tokens[:size] for row, size in zip(rows, sizes, strict=True)]),
        unscored=np.concatenate([row.unscored + int(start) for row, start in zip(rows, starts, strict=False)]),
        **{
            name: np.concatenate([getattr(row, name) for row in rows])
            for name in ("prompt_lengths", "chosen_lengths", "rejected_lengths", "pair_ids", "truncated")
        },
    )
