from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsmill.pipeline.output.blocks import Items, encode_block, open_blocks
from oddsmill.pipeline.output.placing import PLACED_PAIRS
from oddsmill.pipeline.output.rows import lay_rows
from oddsmill.schemas.record import Pair, Truncated, encode_row, encode_rows, make_row

VOCAB, LENGTH, PAD = 300, 40, 7
side = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=6)
cuts = st.integers(0, 7).map(Truncated)


@st.composite
def pairs_of_rows(draw: st.DrawFn) -> list[list[Pair]]:
    """Rows of pairs, of which some have unscored tokens."""
    rows: list[list[Pair]] = []
    for _ in range(draw(st.integers(1, 4))):
        row = []
        for _ in range(draw(st.integers(1, 2))):
            answers = draw(side), draw(side)
            spans = [((1, 2), (3, 5)) if draw(st.booleans()) and len(answer) > 5 else () for answer in answers]
            row.append(
                Pair(
                    prompt=draw(side),
                    chosen=answers[0],
                    rejected=answers[1],
                    id=draw(st.integers(0, 2**64 - 1)),
                    truncated=draw(cuts),
                    unscored_chosen=spans[0],
                    unscored_rejected=spans[1],
                )
            )
        rows.append(row)
    return rows


@contextmanager
def stored(pairs: list[Pair]) -> Iterator[Items]:
    """The pairs as `write_shard` gets them."""
    lines = []
    for each in pairs:
        first = len(each.prompt), len(each.prompt) + len(each.chosen)
        both = zip(first, (each.unscored_chosen, each.unscored_rejected), strict=True)
        runs = [start + bound for start, spans in both for span in spans for bound in span]
        ids = np.array([*each.prompt, *each.chosen, *each.rejected], np.uint16)
        lengths = map(len, (each.prompt, each.chosen, each.rejected))
        lines.append(
            (
                0,
                each.id,
                0,
                0,
                0,
                *lengths,
                int(each.truncated),
                0,
                ids.tobytes(),
                np.array(runs, np.int32).tobytes(),
                b"",
            )
        )
    with open_blocks(PLACED_PAIRS, [encode_block(pa.table(list(zip(*lines, strict=True)), PLACED_PAIRS))]) as items:
        yield items


@pytest.mark.properties
@given(pairs_of_rows(), st.randoms())
def test_many_rows_at_a_time_are_those_of_each_by_itself(rows: list[list[Pair]], random: Random):
    """Wherever their pairs lie among the stored ones."""
    plain = [make_row(row, row_length=LENGTH, pad_id=PAD, vocab_size=VOCAB) for row in rows]
    places = list(range(sum(map(len, rows))))
    random.shuffle(places)
    pairs = [pair for row in rows for pair in row]
    bounds = np.cumsum([0, *map(len, rows)]).tolist()
    with stored([pairs[places.index(number)] for number in range(len(pairs))]) as items:
        laid = lay_rows([places[begin:end] for begin, end in pairwise(bounds)], items, vocab_size=VOCAB)
    assert list(encode_rows(*laid, row_length=LENGTH, pad_id=PAD)) == [encode_row(row) for row in plain]
    assert laid.counts.tolist() == [len(row) for row in rows]
    assert laid.joined.tokens.tolist() == [token for row in plain for token in row.tokens[: row.num_tokens].tolist()]


def test_pairs_that_do_not_fit_their_row_are_an_error():
    pairs = [Pair(prompt=[1], chosen=[2], rejected=[3], id=0)] * 2
    with stored(pairs) as items, pytest.raises(ValueError, match="6 tokens do not fit a row of 5"):
        list(encode_rows(*lay_rows([[0, 1]], items, vocab_size=VOCAB), row_length=5, pad_id=PAD))


def test_a_token_outside_the_vocabulary_is_an_error():
    pairs = [Pair(prompt=[1], chosen=[2], rejected=[VOCAB], id=0)]
    with stored(pairs) as items, pytest.raises(ValueError, match="outside the vocabulary of 300"):
        lay_rows([[0]], items, vocab_size=VOCAB)
