import json
from typing import Any

import pytest

from oddsmill.pipeline import SourceConfig
from oddsmill.pipeline.formats.pairs import Pair
from oddsmill.pipeline.formats.parsing import parse_row
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.schemas.drops import Dropped, Origin

GOOD = {"prompt": "p", "chosen": "c", "rejected": "r"}


def raw(values: Any) -> RawRow:
    return RawRow(Origin(0, 0), values if isinstance(values, bytes) else json.dumps(values).encode())


def one(values: Any, format_name: str, **source: Any) -> Pair:
    (pair,) = parse_row(raw(values), format_name=format_name, source=SourceConfig(path="a", **source))
    return pair


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((2, 1), ("p", "c", "r")),
        ((1, 1), "tie"),
        ((1.4, 1), "tie"),
        ((1, 2), "swapped_scores"),
        (("2", 1), "wrong_type"),
    ],
)
def test_the_scores_of_a_pair_are_held_against_it(scores: tuple, expected: Any):
    row = GOOD | {"score_chosen": scores[0], "score_rejected": scores[1]}
    if isinstance(expected, tuple):
        assert one(row, "triple", margin=0.5) == expected
        return
    with pytest.raises(Dropped, match=expected):
        one(row, "triple", margin=0.5)
