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


def triple(values: Any, **fields: str) -> Pair:
    return one(values, "triple", fields=fields)


def test_fields_may_have_other_names():
    assert triple({"question": "p", "chosen": "c", "rejected": "r"}, prompt="question") == ("p", "c", "r")
    with pytest.raises(Dropped, match="missing_field: no field 'question'"):
        triple(GOOD, prompt="question")


def test_a_field_may_lie_in_another_or_be_made_of_several():
    row = {"input": {"text": "p"}, "a.b": "c", "rejected": "r", "more": [["x", "y"], "z"], "none": None, "blank": " "}
    assert one(row, "triple", fields={"prompt": "input.text", "chosen": "a.b"}) == ("p", "c", "r")
    joined = one(row, "triple", fields={"prompt": ["input.text", "none", "blank", "more"], "chosen": "a.b"})
    assert joined.prompt == "p\n\nx\ny\nz"
    with pytest.raises(Dropped, match=r"missing_field: no field 'input\.absent'"):
        one(row, "triple", fields={"prompt": "input.absent"})
