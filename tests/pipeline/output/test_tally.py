from oddsmill.pipeline.output.tally import Tally
from oddsmill.schemas.manifest import TokenizerSummary
from oddsmill.schemas.record import WHOLE, Pair, Row, Truncated, make_row

TOKENIZER = TokenizerSummary(sha256={}, chat_template_sha256=None, bos_id=1, eos_id=2, pad_id=0, vocab_size=50)


def row(*lengths: tuple[int, int, int], truncated: Truncated = WHOLE) -> Row:
    """A row of 20 slots with pairs of so many tokens."""
    pairs = [
        Pair(prompt=[9] * p, chosen=[9] * c, rejected=[9] * r, id=index, truncated=truncated)
        for index, (p, c, r) in enumerate(lengths)
    ]
    return make_row(pairs, row_length=20, pad_id=49, vocab_size=50)


def tally_of(*rows: Row) -> Tally:
    tally = Tally()
    for each in rows:
        tally.add_rows([each], TOKENIZER)
    return tally


ROWS = [
    row((4, 2, 1), (5, 3, 3)),
    row((1, 1, 1)),
    row((8, 5, 2), truncated=Truncated.PROMPT | Truncated.REJECTED),
]


def test_a_split_is_summed_up():
    summary = tally_of(*ROWS).summary([], row_length=20)
    assert (summary.rows, summary.pairs, summary.max_pairs_per_row) == (3, 4, 2)
    assert summary.max_token_id == 9  # not the padding's
    assert summary.tokens == {"prompt": 18, "chosen": 11, "rejected": 7}
    assert summary.padding_share == round(1 - 36 / 60, 6)
    assert summary.truncated == {"prompt": 1, "chosen": 0, "rejected": 1}


def test_a_length_counts_at_the_next_power_of_two():
    summary = tally_of(*ROWS).summary([], row_length=20)
    assert summary.length_histograms["prompt"] == {"1": 1, "4": 1, "8": 2}
    assert summary.length_histograms["chosen"] == {"1": 1, "2": 1, "4": 1, "8": 1}


def test_tallies_of_parts_add_up_to_that_of_the_whole():
    parts = Tally()
    for part in (tally_of(ROWS[0]), tally_of(), tally_of(*ROWS[1:])):
        parts.merge(part)
    assert parts == tally_of(*ROWS)


def test_no_row_is_no_padding():
    summary = Tally().summary([], row_length=20)
    assert (summary.padding_share, summary.max_token_id) == (0.0, -1)


def test_rows_counted_together_count_as_each_alone():
    """Also runs of unscored tokens, answers that are the same tokens, and a side that ends a row of the next."""
    pairs = [
        Pair(prompt=[1, 5], chosen=[6, 7, 2], rejected=[6, 7, 2], id=1),
        Pair(prompt=[5], chosen=[3, 3, 6, 2], rejected=[6, 2, 4], id=2, unscored_chosen=[(0, 2)]),
        Pair(prompt=[1], chosen=[6, 2, 2], rejected=[4, 4], id=3, unscored_rejected=[(1, 2)]),
        Pair(prompt=[2], chosen=[6], rejected=[7], id=4),
    ]
    rows = [
        make_row(few, row_length=20, pad_id=49, vocab_size=50)
        for few in (pairs[:1], pairs[1:3], pairs[3:], pairs[2:3], pairs[:2])
    ]
    together = Tally()
    together.add_rows(rows, TOKENIZER)
    assert together == tally_of(*rows)
    assert together.checks["identical_ids"] == 2 and together.unscored["chosen"] == 4
