"""The mask by the words of schemas/layout.py, and that what kernels derive from it says the same."""

import jax.numpy as jnp
import numpy as np
import pytest

from oddsmill.schemas.layout import CHOSEN, PROMPT, attention_mask, derive, derive_rows
from oddsmill.schemas.record import make_row
from oddsmill.train.attention.mask import (
    Keys,
    after_query_blocks,
    branch_views,
    first_key_blocks,
    mask_of_rows,
    seen_blocks,
)
from tests.datasets import packed, random_pairs
from tests.train.attention.packed_rows import VOCAB_SIZE, rows_of_pairs

LENGTH = 48


def mask_of(position, end, window=None):
    index = np.arange(position.shape[1])
    return np.asarray(mask_of_rows(index, position, index, Keys(position, end), window))


@pytest.mark.parametrize("window", [None, 3])
def test_a_token_sees_earlier_tokens_of_its_pair_that_are_prompt_or_of_its_own_side(window):
    pairs = random_pairs(np.random.default_rng(0), 60, vocab_size=VOCAB_SIZE, longest=9)
    row = derive(make_row(packed(pairs, LENGTH)[0], row_length=LENGTH, pad_id=0, vocab_size=VOCAB_SIZE))
    found = mask_of(row.position[None], row.end[None], window)[0]
    for query in range(LENGTH):
        for key in range(LENGTH):
            sees = key <= query and row.segment[key] == row.segment[query] and row.branch[key] > 0
            sees &= row.branch[key] in (PROMPT, row.branch[query])
            # A pair whose prompt is one token has no position for it, but its answers share nothing all the same.
            sees &= window is None or row.position[query] - row.position[key] < window
            assert found[query, key] == sees, (query, key)
    assert (row.segment > 2).any() and (row.branch == CHOSEN).any()


def test_the_trainers_mask_is_the_one_that_inspect_shows():
    pairs = random_pairs(np.random.default_rng(1), 60, vocab_size=VOCAB_SIZE, longest=9)
    rows = [make_row(row, row_length=LENGTH, pad_id=0, vocab_size=VOCAB_SIZE) for row in packed(pairs, LENGTH)[:4]]
    arrays = derive_rows(rows)
    found = mask_of(arrays.position, arrays.end)
    assert np.array_equal(found, np.stack([attention_mask(derive(row)) for row in rows])) and found.any()


def test_blocks_that_the_mask_empties_are_passed_over():
    """A query block begins with the first block that holds a key of its own pairs, a key block ends with the last."""
    end = np.repeat([16, 24, 48, 0], [16, 8, 16, 8])[None]
    assert first_key_blocks(jnp.asarray(end), 8).tolist() == [[0, 0, 2, 3, 3, 3]]
    assert after_query_blocks(jnp.asarray(end), 8).tolist() == [[2, 2, 3, 6, 6, 0]]


@pytest.mark.parametrize("longest", [2, 5, 15])
def test_blocks_are_visited_where_a_query_sees_a_key(longest):
    """And only there: a rejected answer passes over the chosen one, too. A window may leave some too many."""
    position, end = rows_of_pairs(longest, LENGTH)
    block = 4

    def needed_and_visited(window):
        mask = mask_of(position, end, window)
        visited = [seen_blocks(*row, window, block) for row in zip(position, end, strict=True)]
        return mask.reshape(3, LENGTH // block, block, LENGTH // block, block).any((2, 4)), np.stack(visited)

    needed, all_visited = needed_and_visited(None)
    np.testing.assert_array_equal(all_visited, needed)
    needed, visited = needed_and_visited(4)
    assert not (needed & ~visited).any()
    assert longest < 15 or visited.sum() < all_visited.sum()


def test_two_views_by_segments_are_the_mask():
    position, end = rows_of_pairs(5, LENGTH)
    first, second, takes_first = map(np.asarray, branch_views(jnp.asarray(end)))
    causal = np.tri(LENGTH, dtype=bool)
    views = [(segments[:, :, None] == segments[:, None, :]) & causal for segments in (first, second)]
    real = (end > 0)[:, :, None]
    np.testing.assert_array_equal(np.where(takes_first[:, :, None], *views) & real, mask_of(position, end) & real)
    assert takes_first.any()
