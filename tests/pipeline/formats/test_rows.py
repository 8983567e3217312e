import json
from collections import Counter
from typing import Any

import pytest

from oddsmill.pipeline import SourceConfig
from oddsmill.pipeline.formats.pairs import Pair
from oddsmill.pipeline.formats.parsing import parse_row
from oddsmill.pipeline.formats.rows import Row
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.schemas.drops import Dropped, Origin

GOOD = {"prompt": "p", "chosen": "c", "rejected": "r"}


def raw(values: Any) -> RawRow:
    return RawRow(Origin(0, 0), values if isinstance(values, bytes) else json.dumps(values).encode())


def one(values: Any, format_name: str, **source: Any) -> Pair:
    (pair,) = parse_row(raw(values), source=SourceConfig(path="a", format=format_name, **source))
    return pair


def triple(values: Any, **fields: Any) -> Pair:
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


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a.b", [1, 2]),
        ("a.c", [None, 3]),  # a member without the key counts as null
        ("a.0.b", 1),
        ("a.1.c", 3),
        ("columns.b", [4, 5]),  # a list of structs that is stored as a struct of lists
        ("deep.x.y", [[1, 2], [3]]),
        ("empty.b", []),
        ("text.b", [1, 2]),  # a table of texts holds its lists as JSON
        ("broken.b", None),
        ("a.b.c", None),
        ("a.absent", None),
        ("a.2.b", None),
        ("0.b", None),
    ],
)
def test_a_path_through_a_list_gives_the_values_of_its_members(path: str, value: Any):
    values = {
        "a": [{"b": 1}, {"b": 2, "c": 3}],
        "columns": {"b": [4, 5]},
        "deep": [{"x": [{"y": 1}, {"y": 2}]}, {"x": [{"y": 3}]}],
        "empty": [],
        "text": '[{"b": 1}, {"b": 2}]',
        "broken": "[{",
    }
    row = Row(values, {"prompt": path})
    assert row.has("prompt") == (value is not None)
    if value is None:
        with pytest.raises(Dropped, match=f"missing_field: no field '{path}'"):
            row.value("prompt")
    else:
        assert row.value("prompt") == value


def test_a_part_of_a_joined_text_may_be_absent_as_it_may_be_null():
    parts = {"prompt": ["instruction", "input"]}
    rest = {"chosen": "c", "rejected": "r"}
    assert triple(rest | {"instruction": "p"}, **parts) == ("p", "c", "r")
    with pytest.raises(Dropped, match="missing_field: no field 'instruction' or 'input'"):
        triple(rest, **parts)


def test_bytes_that_are_no_text_are_unreadable():
    with pytest.raises(Dropped, match="unreadable: field 'prompt' holds bytes that are not UTF-8"):
        Row({"prompt": b"\xff"}, {}).text("prompt")


def test_a_column_whose_name_cannot_be_written_is_named_as_python_writes_it():
    counts: Counter[str] = Counter()
    Row({"\ud800": 1, "\x1b[2J": 1, "note é": 1}, {}).count_not_read(counts)
    assert set(counts) == {"\\ud800", "\\x1b[2J", "note é"}
