import json
from typing import Any

import pytest

from oddsmill.pipeline import SourceConfig
from oddsmill.pipeline.formats.pairs import Pair
from oddsmill.pipeline.formats.parsing import parse_row
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.schemas.drops import Dropped, DropReason, Origin

GOOD = {"prompt": "p", "chosen": "c", "rejected": "r"}


def raw(values: Any) -> RawRow:
    return RawRow(Origin(0, 0), values if isinstance(values, bytes) else json.dumps(values).encode())


def one(values: Any, format_name: str, **source: Any) -> Pair:
    (pair,) = parse_row(raw(values), source=SourceConfig(path="a", format=format_name, **source))
    return pair


def triple(values: Any, **fields: str) -> Pair:
    return one(values, "triple", fields=fields)


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        (b"{", DropReason.UNREADABLE, "broken JSON"),
        (b'{"prompt": "\\ud800", "chosen": "c", "rejected": "r"}', DropReason.UNREADABLE, "lone surrogate at"),
        ([1], DropReason.WRONG_TYPE, "the row is list, not an object"),
        (None, DropReason.WRONG_TYPE, "the row is null, not an object"),
        ({"prompt": "p", "chosen": "c"}, DropReason.MISSING_FIELD, "no field 'rejected'"),
        (GOOD | {"chosen": None}, DropReason.WRONG_TYPE, "field 'chosen' is null, not a string"),
        (GOOD | {"chosen": ["c"]}, DropReason.WRONG_TYPE, "field 'chosen' is list"),
        (GOOD | {"prompt": True}, DropReason.WRONG_TYPE, "field 'prompt' is bool"),
        (GOOD | {"prompt": ""}, DropReason.EMPTY_PROMPT, "empty string"),
        (GOOD | {"prompt": " \n\u00a0"}, DropReason.EMPTY_PROMPT, "white space"),
        (GOOD | {"chosen": ""}, DropReason.EMPTY_ANSWER, "chosen is empty"),
        (GOOD | {"rejected": " \t"}, DropReason.EMPTY_ANSWER, "rejected is empty"),
        (GOOD | {"rejected": "c"}, DropReason.IDENTICAL_ANSWERS, "chosen equals rejected"),
    ],
)
def test_a_row_that_cannot_be_a_pair_says_why(row: Any, reason: DropReason, detail: str):
    with pytest.raises(Dropped) as dropped:
        triple(row)
    assert dropped.value.reason is reason
    assert detail in dropped.value.detail
