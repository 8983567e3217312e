"""Counting the rows of a split: the writer counts the rows that it writes, `verify` those that it reads."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from oddsmill.pipeline.output.checks import count_stored
from oddsmill.schemas.manifest import Shard, SplitSummary, TokenizerSummary
from oddsmill.schemas.record import Row, Truncated

SIDES = ("prompt", "chosen", "rejected")
ANSWERS = SIDES[1:]


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

    def add_row(self, row: Row, tokenizer: TokenizerSummary) -> None:
        """Counts one row."""
        self.rows += 1
        self.checks.update(count_stored(row, tokenizer))
        self.pairs += len(row)
        self.max_pairs_per_row = max(self.max_pairs_per_row, len(row))
        self.max_token_id = max(self.max_token_id, int(row.tokens[: row.num_tokens].max()))
        for side in SIDES:
            lengths = getattr(row, f"{side}_lengths").tolist()
            self.tokens[side] += sum(lengths)
            self.lengths[side].update(1 << (length - 1).bit_length() for length in lengths)
            self.truncated[side] += int(np.count_nonzero(row.truncated & np.uint8(Truncated[side.upper()])))

        if len(row.unscored):
            self.unscored.update(dict(zip(SIDES, row.unscored_tokens().sum(axis=0).tolist(), strict=True)))

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
