from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsmill.schemas.layout import (
    CHOSEN,
    PROMPT,
    REJECTED,
    SIDE_OF_BRANCH,
    attention_mask,
    derive,
    derive_rows,
    mask_in_words,
)
from oddsmill.schemas.record import Pair, Row, make_row

ids = st.lists(st.integers(3, 99), min_size=1, max_size=7)
pairs = st.builds(Pair, prompt=ids, chosen=ids, rejected=ids, id=st.integers(0, 99))
rows = st.lists(pairs, min_size=1, max_size=4).map(
    lambda pairs: make_row(pairs, row_length=sum(map(len, pairs)) + 2, pad_id=0, vocab_size=100)
)


def test_the_layout_is_the_one_drawn_in_the_design():
    p0, p1, p2, c0, c1, r0, e, q0, d0, s0 = range(10, 20)
    first = Pair(prompt=[p0, p1, p2], chosen=[c0, c1, e], rejected=[r0, e], id=1)
    second = Pair(prompt=[q0], chosen=[d0, e], rejected=[s0], id=2)
    arrays = derive(make_row([first, second], row_length=13, pad_id=0, vocab_size=99))
    # fmt: off
    assert arrays.inputs.tolist()   == [p0, p1,  p2, c0, c1,  p2, r0,  q0, d0,  q0,  0, 0, 0]
    assert arrays.labels.tolist()   == [p1, p2,  c0, c1, e,   r0, e,   d0, e,   s0,  0, 0, 0]
    assert arrays.branch.tolist()   == [1,  1,   2,  2,  2,   3,  3,   2,  2,   3,   0, 0, 0]
    assert arrays.segment.tolist()  == [1,  1,   1,  1,  1,   1,  1,   2,  2,   2,   0, 0, 0]
    assert arrays.position.tolist() == [0,  1,   2,  3,  4,   2,  3,   0,  1,   0,   0, 0, 0]
    assert arrays.end.tolist()      == [7,  7,   5,  5,  5,   7,  7,   9,  9,   10,  0, 0, 0]
    # fmt: on


def test_unscored_labels_have_a_branch_of_their_own_and_see_what_their_side_sees():
    """`t0 t1` are a tool's turn in chosen, `u0` the user's in the second pair's rejected; only `branch` tells it."""
    p0, p1, p2, c0, t0, t1, e, r0, q0, d0, s0, u0 = range(10, 22)
    pairs = [
        Pair(prompt=[p0, p1, p2], chosen=[c0, t0, t1, e], rejected=[r0, e], id=1, unscored_chosen=[(1, 3)]),
        Pair(prompt=[q0], chosen=[d0, e], rejected=[s0, u0, e], id=2, unscored_rejected=[(1, 2)]),
    ]
    row = make_row(pairs, row_length=16, pad_id=0, vocab_size=99)
    plain = make_row(
        [replace(pair, unscored_chosen=(), unscored_rejected=()) for pair in pairs],
        row_length=16, pad_id=0, vocab_size=99,
    )  # fmt: skip
    arrays = derive(row)
    # fmt: off
    assert arrays.inputs.tolist() == [p0, p1,  p2, c0, t0, t1,  p2, r0,  q0, d0,  q0, s0, u0,  0, 0, 0]
    assert arrays.labels.tolist() == [p1, p2,  c0, t0, t1, e,   r0, e,   d0, e,   s0, u0, e,   0, 0, 0]
    assert arrays.branch.tolist() == [1,  1,   2,  4,  4,  2,   3,  3,   2,  2,   3,  5,  3,   0, 0, 0]
    # fmt: on
    assert arrays._replace(branch=SIDE_OF_BRANCH[arrays.branch]).branch.tolist() == derive(plain).branch.tolist()
    for name in ("inputs", "labels", "segment", "position", "end"):
        assert getattr(arrays, name).tolist() == getattr(derive(plain), name).tolist()
    assert np.array_equal(attention_mask(arrays), mask_in_words(arrays))
    together = derive_rows([plain, row, row])
    assert together.branch.tolist() == [derive(plain).branch.tolist(), *[arrays.branch.tolist()] * 2]


@pytest.mark.properties
@given(rows)
def test_every_token_but_a_prompts_first_is_a_label_once(row: Row):
    arrays = derive(row)
    used = arrays.branch > 0
    expected = [token for pair in row.pairs() for token in (*pair.prompt[1:], *pair.chosen, *pair.rejected)]
    assert arrays.labels[used].tolist() == expected
    for values in arrays:
        assert values.shape == row.tokens.shape
        assert values.dtype == np.int32
        assert not values[~used].any()


@pytest.mark.properties
@given(rows)
def test_each_side_reads_as_the_sequence_prompt_and_answer(row: Row):
    arrays = derive(row)
    for number, pair in enumerate(row.pairs(), start=1):
        for branch, answer in ((CHOSEN, pair.chosen), (REJECTED, pair.rejected)):
            side = (arrays.segment == number) & ((arrays.branch == PROMPT) | (arrays.branch == branch))
            sequence = [*pair.prompt, *answer]
            assert arrays.inputs[side].tolist() == sequence[:-1]
            assert arrays.labels[side].tolist() == sequence[1:]
            assert arrays.position[side].tolist() == list(range(len(sequence) - 1))


@pytest.mark.properties
@given(rows)
def test_the_end_rule_is_the_mask_in_words(row: Row):
    """A token sees itself and earlier tokens of its pair whose branch is the prompt's or its own."""
    arrays = derive(row)
    length = len(row.tokens)
    mask = attention_mask(arrays)
    assert np.array_equal(mask, mask_in_words(arrays))
    for query in range(length):
        for key in range(length):
            by_rule = key <= query < arrays.end[key]
            assert mask[query, key] == by_rule
            real = arrays.segment[query] > 0 and arrays.segment[key] > 0
            in_words = (
                real
                and key <= query
                and arrays.segment[key] == arrays.segment[query]
                and arrays.branch[key] in (PROMPT, arrays.branch[query])
            )
            assert by_rule == in_words


@pytest.mark.properties
@given(st.lists(st.lists(pairs, max_size=3), min_size=1, max_size=5))
def test_rows_together_are_the_rows_alone_and_one_without_a_pair_is_padding(batch):
    length = max(sum(map(len, row)) for row in batch) + 1
    empty = np.zeros(0, np.int32)
    padding = Row(
        tokens=np.ones(length, np.int32), prompt_lengths=empty, chosen_lengths=empty, rejected_lengths=empty,
        pair_ids=empty, truncated=empty,
    )  # fmt: skip
    rows = [make_row(row, row_length=length, pad_id=3, vocab_size=100) if row else padding for row in batch]
    together = derive_rows(rows)
    for index, row in enumerate(rows):
        alone = derive(row) if len(row) else [np.zeros(length)] * len(together)
        for values, expected in zip(together, alone, strict=True):
            assert values.dtype == np.int32 and values.shape == (len(rows), length)
            assert values[index].tolist() == expected.tolist()
