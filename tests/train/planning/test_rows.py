"""The rows of a planned step without data are full, and hold pairs of three equal parts."""

import numpy as np
import pytest

from oddsmill.schemas.layout import CHOSEN, PROMPT, REJECTED
from oddsmill.train.planning.rows import full_rows


@pytest.mark.parametrize(("row_length", "pairs"), [(96, 4), (100, 4), (12, 1), (256, 8)])
def test_full_rows_hold_as_many_tokens_as_fit_in_equal_parts(row_length, pairs):
    rows = full_rows(5, row_length=row_length, pairs_per_row=pairs)
    assert rows.position.shape == rows.branch.shape == (5, row_length)
    assert rows.num_tokens == 5 * (row_length - pairs) and rows.row_length == row_length  # a pair has one slot unused
    assert (rows.pairs, rows.max_pairs) == (5 * pairs, pairs)
    assert (rows.max_token_id, rows.epoch) == (None, None)
    counts = [int(np.count_nonzero(rows.branch[0] == part)) for part in (PROMPT, CHOSEN, REJECTED)]
    assert max(counts) - min(counts) <= 2 * pairs and sum(counts) == row_length - pairs
    longest = 2 * -(-row_length // (3 * pairs))  # a prompt and an answer
    assert rows.position.max() < longest
