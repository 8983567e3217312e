import json
import sys
import types
from typing import Any

import pytest

from oddsmill.pipeline import SourceConfig
from oddsmill.pipeline.formats.detection import check_source
from oddsmill.pipeline.formats.pairs import ChatPair, Pair
from oddsmill.pipeline.formats.parsing import parse_row
from oddsmill.pipeline.formats.user_function import load_function
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.schemas.drops import Dropped, Origin
from oddsmill.schemas.errors import Refused

GOOD = {"prompt": "p", "chosen": "c", "rejected": "r"}


def raw(values: Any) -> RawRow:
    return RawRow(Origin(0, 0), values if isinstance(values, bytes) else json.dumps(values).encode())


def one(values: Any, format_name: str, **source: Any) -> Pair:
    (pair,) = parse_row(raw(values), source=SourceConfig(path="a", format=format_name, **source))
    return pair


MADE = {
    "as_tuple": lambda row: (row["q"], "c", "r"),
    "as_dict": lambda row: {"prompt": row["q"], "chosen": "c", "rejected": "r"},
    "as_chat": lambda row: {
        "prompt": [{"role": "user", "content": row["q"]}],
        "chosen": "c",
        "rejected": "r",
    },
    "nothing": lambda row: None,
    "fails": lambda row: row["absent"],
    "other": lambda row: 5,
    "surrogate": lambda row: ("p", "\ud800", "r"),
}


def test_a_function_of_the_user_makes_pairs_or_says_none(monkeypatch: pytest.MonkeyPatch):
    module = types.ModuleType("made_here")
    vars(module).update(MADE)
    monkeypatch.setitem(sys.modules, "made_here", module)
    assert one({"q": "p"}, "made_here:as_tuple") == ("p", "c", "r")
    assert one({"q": "p"}, "made_here:as_dict") == ("p", "c", "r")
    assert isinstance(one({"q": "p"}, "made_here:as_chat"), ChatPair)
    for name, reason in (
        ("nothing", "user_function: made_here:nothing gave None"),
        ("fails", "user_function: KeyError"),
        ("other", "wrong_type: made_here:other gave int"),
        ("surrogate", "unreadable"),
    ):
        with pytest.raises(Dropped, match=reason):
            one({"q": "p"}, f"made_here:{name}")
    with pytest.raises(Refused, match="has no attribute 'absent'"):
        load_function("made_here:absent")
    with pytest.raises(Refused, match="No module named"):
        check_source(SourceConfig(path="a", format="absent_module:f"))


def test_a_function_that_a_worker_does_not_find_ends_the_run_and_drops_no_row():
    with pytest.raises(Refused, match="No module named 'absent_module'"):
        one({"q": "p"}, "absent_module:f")
