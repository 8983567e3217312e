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
    (pair,) = parse_row(raw(values), source=SourceConfig(path="a", format=format_name, **source))
    return pair


def triple(values: Any, **fields: str) -> Pair:
    return one(values, "triple", fields=fields)


def test_a_triple_is_taken_as_it_stands():
    assert triple({"prompt": " p\n", "chosen": " c", "rejected": "r ", "more": 1}) == (" p\n", " c", "r ")


def test_names_of_two_columns_are_no_answers():
    row = GOOD | {"chosen": "response_1", "rejected": "response_2", "response_1": "c", "response_2": "r"}
    with pytest.raises(Dropped, match="wrong_type: chosen and rejected name the columns response_1 and response_2"):
        triple(row)
    assert triple(GOOD | {"chosen": "response_1", "response_1": "c"}).chosen == "response_1"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("response_a", "response_b"), "name the columns response_a and response_b"),
        (("Answer_A", "Answer_B"), "name the columns Answer_A and Answer_B"),
        (("option_a", "question_b"), None),
        (("a_text", "b_text"), None),
    ],
)
def test_labels_of_two_columns_are_no_answers(columns: tuple[str, str], message: str | None):
    row = GOOD | {"chosen": "A", "rejected": "B"} | dict.fromkeys(columns, "text")
    if message:
        with pytest.raises(Dropped, match=message):
            triple(row)
    else:
        assert triple(row)[1:] == ("A", "B")
