"""The rows of a planned step: those of its data, or rows that stand for them."""

from contextlib import closing
from typing import NamedTuple

import numpy as np

from oddsmill.schemas.layout import PADDING, derive
from oddsmill.schemas.record import Pair, make_row
from oddsmill.train.config.plan import PlanConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.loader import train_batches
from oddsmill.train.setup import read_train_split
from oddsmill.train.step.batch_rules import batch_rules


class StepRows(NamedTuple):
    """What the plan knows of a step's rows.

    Attributes:
      position, branch: [B, L] of all rows of the step, as `oddsmill.schemas.layout.derive` gives them.
      pairs: of the step.
      max_pairs: the most pairs a row holds, of all rows.
      vocab_size: of the tokenizer; None where there is none.
      epoch: rows of the data, those that fill up its last step counted; None where there are none.
    """

    position: np.ndarray
    branch: np.ndarray
    pairs: int
    max_pairs: int
    vocab_size: int | None
    epoch: int | None

    @property
    def num_tokens(self) -> int:
        return int(np.count_nonzero(self.branch != PADDING))

    @property
    def row_length(self) -> int:
        return self.branch.shape[1]


def step_rows(config: PlanConfig, run: TrainConfig) -> StepRows:
    """The first step's rows.

    Raises:
      Refused: the data cannot be trained on.
    """
    count = config.rows_per_step
    if config.data:
        manifest = read_train_split(config.data)
        split = manifest.splits["train"]
        empty = batch_rules(run.compat).empty_rows(split.rows, run.rows_per_step)
        with closing(
            train_batches(
                config.data,
                manifest,
                rows_per_step=count,
                shuffle=config.shuffle_train_dataset,
                seed=config.seed,
                empty_rows=empty,
            )
        ) as batches:
            batch = next(batches)
        return StepRows(
            position=batch["position"],
            branch=batch["branch"],
            pairs=int(batch["segment"].max(1).sum()),
            max_pairs=split.max_pairs_per_row,
            vocab_size=manifest.tokenizer.vocab_size,
            epoch=split.rows + empty,
        )
    assert config.row_length is not None  # by PlanConfig
    pairs = config.pairs_per_row or 4
    thirds = np.array_split(np.zeros(config.row_length, np.int32), 3 * pairs)
    sides = zip(thirds[0::3], thirds[1::3], thirds[2::3], strict=True)
    row = make_row(
        [Pair(prompt=p, chosen=c, rejected=r, id=index) for index, (p, c, r) in enumerate(sides)],  # type: ignore[arg-type]
        row_length=config.row_length,
        pad_id=0,
        vocab_size=1,
    )
    arrays = derive(row)
    position, branch = (np.tile(array, (count, 1)) for array in (arrays.position, arrays.branch))
    return StepRows(position, branch, pairs * count, pairs, None, None)
