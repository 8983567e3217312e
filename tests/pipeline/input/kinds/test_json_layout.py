"""The layout of a JSON text is told by more than one sign: a row may look like a list of rows, a file may be broken."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsmill.pipeline.input.kinds.json_layout import Layout, holds_columns, layout_of, outline

ROW = {"prompt": "p", "chosen": 'c [{\\"', "rejected": "r"}
MESSAGES = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
CHAT = {"messages": MESSAGES, "chosen": MESSAGES}
RANKED = {"instruction": "i", "completions": [{"response": "a", "score": 1}, {"response": "b", "score": 2}]}
LINES, ARRAY, OBJECTS, WRAPPED = Layout


def lines(*rows: object, indent: int | None = None, between: str = "\n") -> str:
    return between.join(json.dumps(row, indent=indent) for row in rows)


@pytest.mark.parametrize(
    ("text", "layout"),
    [
        (lines(ROW, ROW), LINES),
        (lines(ROW), LINES),
        (lines(CHAT), LINES),
        (lines(RANKED), LINES),
        (lines({"id": 1, "answers": [{"text": "a", "score": 1}]}), LINES),
        (lines({"data": MESSAGES}), LINES),
        (lines({"data": [ROW]}, {"data": [ROW]}), LINES),
        ('{"prompt": "cut\n' + lines(ROW, ROW), LINES),
        ('{"prompt": "p"\n' + lines(ROW, ROW), LINES),
        ('{"prompt": "p",\n' + lines(ROW, ROW), LINES),
        ('{"prompt": ["p"\n' + lines(ROW, ROW), LINES),
        ('{"prompt": nonsense}\n' + lines(ROW), LINES),
        ("{}}\n" + lines(ROW), LINES),
        (lines(ROW) + "{x", OBJECTS),
        ('{"a": ' + "[" * 5000 + "]" * 5000 + "}\n" + lines(ROW), LINES),
        (lines(ROW, ROW, indent=2), OBJECTS),
        (lines(CHAT, indent=1), OBJECTS),
        (lines(RANKED, indent=1), OBJECTS),
        (lines(ROW, ROW, between=""), OBJECTS),
        (lines(ROW, ROW, between=" "), OBJECTS),
        (lines(ROW, ROW, between=",\n") + ",", OBJECTS),
        (lines(CHAT, indent=1)[:60], OBJECTS),
        (lines({"version": "1", "data": [ROW], "n": [1]}), WRAPPED),
        (lines({"data": [ROW]}, indent=2), WRAPPED),
        (lines({"train": [CHAT, CHAT]}), WRAPPED),
        (lines({"my_rows": [RANKED]}), WRAPPED),
        (lines({"data": [{"x": 1}]}), WRAPPED),
        (lines({"data": [ROW | {"role": 1}]}), WRAPPED),
        (lines({"features": [{"name": "prompt"}], "rows": [{"row": ROW}]}), WRAPPED),
        (lines({"license": {"a": [{"prompt": 1}]}, "rows": [ROW] * 9})[:300], WRAPPED),
        (lines([ROW, ROW]), ARRAY),
        (lines([ROW, ROW], indent=2), ARRAY),
        (lines([ROW] * 9)[:200], ARRAY),
        (lines([CHAT]), ARRAY),
        ("[]", LINES),
        (lines([1, 2], ROW), LINES),
        (lines([ROW], [ROW]), LINES),
        (lines(MESSAGES, MESSAGES), LINES),
        (lines(MESSAGES * 9)[:200], LINES),
    ],
)
def test_the_begin_of_a_file_tells_its_layout(text: str, layout: Layout):
    assert layout_of(b"\xef\xbb\xbf\n " + text.encode(), has_lines=True) is layout


@pytest.mark.parametrize("text", ["[]", "[1]", lines(MESSAGES * 9)[:200], lines([ROW]), "[oops"])
def test_a_list_in_a_file_that_is_not_named_for_lines_is_an_array(text: str):
    assert layout_of(text.encode(), has_lines=False) is ARRAY


def test_columns_are_told_from_rows():
    columns = {key: [value, value] for key, value in ROW.items()}
    assert holds_columns(lines(columns).encode())
    assert holds_columns(lines({key: {"0": value} for key, value in ROW.items()}, indent=1).encode())
    for row in (ROW, CHAT, {"data": [columns]}, {"prompt": ["a"], "x": ["b"]}):
        assert not holds_columns(lines(row).encode())
    assert not holds_columns(lines(columns, columns).encode())


VALUES = st.recursive(
    st.text(st.sampled_from('a"\\[]{},:é'), max_size=5) | st.integers() | st.none() | st.booleans() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.properties
@given(
    st.dictionaries(st.text(st.sampled_from('ab"\\'), max_size=4), VALUES, max_size=4), st.booleans(), st.integers(0)
)
def test_an_outline_has_the_keys_of_the_object_and_ends_where_it_does(value: dict, pretty: bool, cut: int):
    text = json.dumps(value, indent=2 if pretty else None).encode()
    found = outline(text + b" {")
    assert found is not None and found.end == len(text)
    assert [json.loads(f'"{key}"') for key in found.keys] == list(value)
    for name, (begin, keys) in found.lists.items():
        rows = value[json.loads(f'"{name}"')]
        assert text[begin:].startswith(b"[") and set(rows[0]) == {json.loads(f'"{key}"') for key in keys}
    part = outline(text[: cut % (len(text) + 1)])
    assert part is not None and found.keys[: len(part.keys)] == part.keys
