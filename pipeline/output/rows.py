"""Laying pairs into rows, many rows at a time: a pass over hundreds of them costs less than a pass over each."""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from oddsmill.pipeline.output.blocks import Items
from oddsmill.pipeline.output.tally import SIDES
from oddsmill.schemas.record import NO_SPANS, Row, check_row, token_dtype


class Rows(NamedTuple):
    """Some rows of a shard.

    Attributes:
      joined: all their pairs, as if one row held them without padding.
      counts: [rows] int64, the number of pairs in each row.
    """

    joined: Row
    counts: np.ndarray


def lay_rows(rows: Sequence[Sequence[int]], pairs: Items, *, vocab_size: int) -> Rows:
    """Lays pairs one after another into rows.

    Args:
      rows: the numbers of the pairs in each row, of which there is at least one.
      pairs: of the columns `PLACED_PAIRS`.

    Raises:
      ValueError: the pairs break an invariant of `check_row`.
    """
    members = np.fromiter(chain.from_iterable(rows), np.int64)
    columns = {name: pairs.columns[name][members] for name in (*SIDES, "id", "truncated")}
    lengths = np.sum([columns[side] for side in SIDES], axis=0)
    joined = Row(
        tokens=np.frombuffer(pairs.join("ids", members), token_dtype(vocab_size)),
        **{f"{side}_lengths": columns[side] for side in SIDES},
        pair_ids=columns["id"],
        truncated=columns["truncated"],
        unscored=_unscored(pairs, members, np.cumsum(lengths) - lengths),
    )
    check_row(joined, row_length=int(lengths.sum()), vocab_size=vocab_size)
    return Rows(joined, np.array([len(row) for row in rows]))


def _unscored(pairs: Items, members: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Returns the runs of unscored tokens of pairs that begin at `starts`, [m, 2] int32."""
    runs = pairs.sizes("unscored", members) // NO_SPANS.itemsize // 2
    stored = np.frombuffer(pairs.join("unscored", members[runs > 0]), np.int32).reshape(-1, 2)
    return stored + np.repeat(starts, runs)[:, None].astype(np.int32)
