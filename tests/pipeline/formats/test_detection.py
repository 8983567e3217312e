import json
from typing import Any

import pytest

from oddsmill.pipeline import SourceConfig
from oddsmill.pipeline.formats.detection import check_source, detect_format
from oddsmill.pipeline.formats.pairs import Pair
from oddsmill.pipeline.formats.parsing import parse_row
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.schemas.drops import Origin
from oddsmill.schemas.errors import Refused

H, A = "\n\nHuman:", "\n\nAssistant:"
GOOD = {"prompt": "p", "chosen": "c", "rejected": "r"}


def raw(values: Any) -> RawRow:
    return RawRow(Origin(0, 0), values if isinstance(values, bytes) else json.dumps(values).encode())


def one(values: Any, format_name: str, **source: Any) -> Pair:
    (pair,) = parse_row(raw(values), source=SourceConfig(path="a", format=format_name, **source))
    return pair


def detect(rows: list[Any], **source: Any) -> str:
    return detect_format(map(raw, rows), source=SourceConfig(path="a", **source))


def test_the_format_is_the_one_under_which_rows_become_pairs():
    dialogue = {"chosen": f"{H} a{A} b", "rejected": f"{H} a{A} c"}
    user, yes, no = ({"role": role, "content": role[0]} for role in ("user", "assistant", "assistant"))
    no = no | {"content": "no"}
    assert detect([b"{", GOOD]) == "triple"
    assert detect([dialogue]) == "transcript"
    assert detect([dialogue | {"prompt": "p"}]) == "triple"
    assert detect([{"prompt": [user], "chosen": [yes], "rejected": [no]}]) == "messages"
    assert detect([{"chosen": [user, yes], "rejected": [user, no]}]) == "messages"
    turns = {"conversations": [{"from": "human", "value": "q"}]}
    assert detect([turns | {"chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}]) == (
        "sharegpt"
    )
    assert detect([{"prompt": "p", "completions": ["a", "b"], "scores": [1, 2]}]) == "ranked"
    assert detect([{"prompt": "p", "completions": ["a", "b"], "votes": 1}]) == "votes"


def test_a_format_that_cannot_be_told_is_refused_with_the_fields_there_are():
    with pytest.raises(Refused, match=r"ranked or votes \(fields: 'question', 'a'; triple: no field 'prompt'; "):
        detect([{"question": "x", "a": "y"}])
    with pytest.raises(Refused, match="the input has no rows"):
        detect([])
    with pytest.raises(Refused, match="unreadable: broken JSON at character 1"):
        detect([b"{", b"{}}"])


def test_a_refusal_says_what_each_format_misses_in_the_first_row_that_can_be_read():
    whole = {"chosen": "[1]", "rejected": "[2]"}  # dialogues written as JSON text, as a CSV file holds them
    with pytest.raises(Refused) as refused:
        detect([b"{", whole])
    for problem in ("triple: no field 'prompt'", "messages: prompt, chosen and rejected are strings, not messages"):
        assert problem in str(refused.value)
    assert "fields: 'chosen', 'rejected'" in str(refused.value)


def test_unpaired_rows_are_refused_as_what_they_are():
    with pytest.raises(Refused, match="the rows are unpaired"):
        detect([{"messages": [{"role": "user", "content": "q"}], "label": True}])


@pytest.mark.parametrize(
    ("format_name", "source"),
    [
        ("triple", {"ranked_pairs": "all"}),
        ("votes", {"margin": 1.0}),
        ("triple", {"vote_values": {"x": "first"}}),
        ("json:loads", {"fields": {"prompt": "q"}}),
    ],
)
def test_a_setting_that_a_format_does_not_use_is_refused(format_name: str, source: dict):
    with pytest.raises(Refused, match=f"--source.{next(iter(source))}=.* has no effect on the format {format_name}"):
        check_source(SourceConfig(path="a", format=format_name, **source))


def test_a_format_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(Refused, match=r"--source\.format=csv: must be one of triple, transcript, .*or module:function"):
        check_source(SourceConfig(path="a", format="csv"))
