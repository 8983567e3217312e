"""The rows of a planned step: the first ones of its data, or full rows of the same shape."""

from contextlib import closing
from typing import NamedTuple

import numpy as np

from oddsmill.schemas.dataset_files import check_shards
from oddsmill.schemas.layout import PADDING, derive
from oddsmill.schemas.record import Pair, make_row
from oddsmill.train.config.plan import PlanConfig
from oddsmill.train.data.dataset import open_train_data
from oddsmill.train.data.loader import train_batches
from oddsmill.train.step.batch_rules import batch_rules


class StepRows(NamedTuple):
    """The rows of one step, as far as a plan depends on them.

    Attributes:
      position, branch: [B, L] int, as `oddsmill.schemas.layout.derive` gives them, for all rows of the step.
      pairs: number of pairs of the step.
      max_pairs: the most pairs that any row of the data holds.
      max_token_id: the highest id of the data; None without data.
      epoch: rows of an epoch, with the empty rows that fill its last step; None without data.
    """

    position: np.ndarray
    branch: np.ndarray
    pairs: int
    max_pairs: int
    max_token_id: int | None
    epoch: int | None

    @property
    def num_tokens(self) -> int:
        return int(np.count_nonzero(self.branch != PADDING))

    @property
    def row_length(self) -> int:
        return self.branch.shape[1]


def step_rows(config: PlanConfig) -> StepRows:
    """Returns the rows of the first step of the data, or full rows where there is no data.

    Raises:
      Refused: the data cannot be trained on.
    """
    if config.data is not None:
        return _rows_of_data(config, config.data)
    assert config.row_length is not None  # by PlanConfig
    return full_rows(config.rows_per_step, row_length=config.row_length, pairs_per_row=config.pairs_per_row or 4)


def _rows_of_data(config: PlanConfig, data: str) -> StepRows:
    manifest = open_train_data(data).manifest
    check_shards(data, manifest)
    split = manifest.splits["train"]
    empty_rows = batch_rules(config.compat).empty_rows(split.rows, config.rows_per_step)
    batches = train_batches(
        data,
        manifest,
        rows_per_step=config.rows_per_step,
        shuffle=config.shuffle_train_dataset,
        seed=config.seed,
        empty_rows=empty_rows,
    )
    with closing(batches):
        batch = next(batches)
    return StepRows(
        position=batch["position"],
        branch=batch["branch"],
        pairs=int(batch["segment"].max(1).sum()),
        max_pairs=split.max_pairs_per_row,
        max_token_id=manifest.max_token_id,
        epoch=split.rows + empty_rows,
    )


def full_rows(count: int, *, row_length: int, pairs_per_row: int) -> StepRows:
    """Returns full rows, whose pairs are a third prompt, a third chosen and a third rejected answer each."""
    parts = [part.tolist() for part in np.array_split(np.zeros(row_length, np.int32), 3 * pairs_per_row)]
    sides = zip(parts[0::3], parts[1::3], parts[2::3], strict=True)
    row = make_row(
        [Pair(prompt=p, chosen=c, rejected=r, id=index) for index, (p, c, r) in enumerate(sides)],
        row_length=row_length,
        pad_id=0,
        vocab_size=1,
    )
    arrays = derive(row)
    position, branch = (np.tile(array, (count, 1)) for array in (arrays.position, arrays.branch))
    return StepRows(position, branch, pairs_per_row * count, pairs_per_row, None, None)
