import io
import json
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsmill.pipeline.input.kinds import json_array
from oddsmill.pipeline.input.kinds.json_array import iterate_array, iterate_objects, iterate_wrapped
from oddsmill.pipeline.input.kinds.kind import BrokenFile

TEXT = st.text(st.sampled_from('a"\\[]{},é\n\U0001f600'), max_size=8)
VALUES = st.recursive(
    TEXT | st.integers() | st.none() | st.booleans() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.properties
@given(
    values=st.lists(VALUES, max_size=6),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
    chunk_bytes=st.integers(1, 50),
)
def test_chunks_of_any_size_give_the_elements(
    values: list[Any], ascii_only: bool, indent: int | None, chunk_bytes: int
):
    text = " " + json.dumps(values, ensure_ascii=ascii_only, indent=indent) + "\n"
    found = list(iterate_array(io.BytesIO(text.encode()), chunk_bytes=chunk_bytes))
    assert [json.loads(element) for element in found] == values


def test_a_string_ends_at_the_first_quote_that_is_no_part_of_it():
    strings = ["".join(each) for size in range(7) for each in product('\\"a', repeat=size)]
    found = iterate_array(io.BytesIO(json.dumps(strings).encode()))
    assert [json.loads(element) for element in found] == strings


def test_a_broken_element_spoils_itself_only():
    text = b'[{"a": 1}, {"a": nonsense, "b" ["]"]}, , {"a": "\xff"}, 3,]'
    assert list(iterate_array(io.BytesIO(text))) == [
        b'{"a": 1}', b'{"a": nonsense, "b" ["]"]}', b"", b'{"a": "\xff"}', b"3", b"",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["[]", "[ ]", "\n[\n]\n"])
def test_an_empty_array_has_no_element(text: str):
    assert list(iterate_array(io.BytesIO(text.encode()))) == []


@pytest.mark.parametrize(
    ("text", "elements", "message"),
    [
        ('[{"a": 1}, {"b": ', 1, "it ends before the array does"),
        ('[{"a": 1}, {"b": "x]', 1, "it ends before the array does"),
        ('[{"a": 1}, {"b": [1}, 2]', 1, "a } that closes nothing"),
        ('[{"a": 1}]{"b": 2}', 1, "something follows the array"),
        ("[1]]", 1, "something follows the array"),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [1, 7, 1000])
def test_where_the_array_cannot_be_followed_it_stops_after_what_came_before(
    text: str, elements: int, message: str, chunk_bytes: int
):
    found = iterate_array(io.BytesIO(text.encode()), chunk_bytes=chunk_bytes)
    for _ in range(elements):
        next(found)
    with pytest.raises(BrokenFile, match=message):
        next(found)


def test_an_element_without_end_is_given_up_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(json_array, "LONGEST_ROW", 1000)
    file = io.BytesIO(b'[1, {"a": "' + b"x" * 100_000)
    with pytest.raises(BrokenFile, match="an element of more than"):
        list(iterate_array(file, chunk_bytes=100))
    assert file.tell() < 10_000


def test_a_long_array_is_not_held():
    class Endless(io.RawIOBase):
        def __init__(self) -> None:
            self.given = 0

        def read(self, size: int = -1) -> bytes:
            self.given += size
            return b'[{"a": 1},' if self.given == size else b'{"a": 1},' * (size // 9)

    file = Endless()
    found = iterate_array(file, chunk_bytes=900)  # type: ignore[arg-type]
    assert [json.loads(next(found)) for _ in range(500)] == [{"a": 1}] * 500
    assert file.given < 900 * 10


@pytest.mark.properties
@given(
    values=st.lists(st.dictionaries(TEXT, VALUES, max_size=3), min_size=1, max_size=5),
    indent=st.sampled_from([None, 0, 2]),
    between=st.sampled_from(["", "\n", ",\r\n", " "]),
    chunk_bytes=st.integers(1, 50),
)
def test_objects_one_after_another_are_found_in_chunks_of_any_size(
    values: list[Any], indent: int | None, between: str, chunk_bytes: int
):
    text = "\ufeff" + between.join(json.dumps(value, indent=indent) for value in values) + between
    found = list(iterate_objects(io.BytesIO(text.encode()), chunk_bytes=chunk_bytes))
    assert [json.loads(element) for element in found] == values


@pytest.mark.properties
@given(
    values=st.lists(st.dictionaries(TEXT, VALUES, max_size=3), min_size=1, max_size=5), chunk_bytes=st.integers(1, 50)
)
def test_the_list_in_an_object_is_found_in_chunks_of_any_size(values: list[Any], chunk_bytes: int):
    text = json.dumps({"version": {"data": 1}, "data": [{"prompt": 1}, *values], "n": [1, {"}": "]"}]}, indent=1)
    found = list(iterate_wrapped(io.BytesIO(text.encode()), chunk_bytes=chunk_bytes))
    assert [json.loads(element) for element in found[1:]] == values


def test_what_stands_between_objects_is_not_lost():
    assert list(iterate_objects(io.BytesIO(b'{"a": 1} oops {"a": 2}'))) == [b'{"a": 1}', b'oops {"a": 2}']


@pytest.mark.parametrize(
    ("iterate", "text", "message"),
    [
        (iterate_objects, '{"a": 1}\n{"b": ', "it ends before an object does"),
        (iterate_objects, '{"a": 1} oops', "it ends before an object does"),
        (iterate_objects, '{"a": 1]', "a ] that closes nothing"),
        (iterate_wrapped, '{"data": [{"a": 1}', "it ends before the array does"),
        (iterate_wrapped, '{"data": [{"a": 1}]', "it ends before the object around its list of rows does"),
        (iterate_wrapped, '{"train": [{"a": 1}], "test": [{"a": 2}]}', r"several lists of rows \(train, test\)"),
    ],
)
def test_where_objects_cannot_be_followed_it_says_why(iterate: Any, text: str, message: str):
    with pytest.raises(BrokenFile, match=message):
        list(iterate(io.BytesIO(text.encode())))


def test_a_second_list_of_rows_far_behind_the_first_is_found():
    text = '{"train": [' + ", ".join(['{"prompt": "p"}'] * 10_000) + '], "test": [{"prompt": "q"}]}'
    with pytest.raises(BrokenFile, match=r"several lists of rows \(train, test\)"):
        list(iterate_wrapped(io.BytesIO(text.encode())))
