"""A raw row: what is unreadable in it, how it is shown, and its fingerprint."""

import pytest

from oddsmill.pipeline.input.rows import RawRow, make_row, parse_json
from oddsmill.schemas.drops import Dropped, Origin


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (b'{"prompt": "x"', "broken JSON at character 14"),
        (b'{"prompt": "\xff"}', r"byte 12 \(0xff\) is not UTF-8"),
        (b"[" * 100_000, "nested deeper than 400 levels"),
        (b"[" * 402 + b"]" * 402, "nested deeper than 400 levels"),
        (b'{"n": ' + b"9" * 5000 + b"}", "broken JSON: "),
    ],
)
def test_what_is_unreadable_says_where(line: bytes, detail: str):
    with pytest.raises(Dropped, match=f"unreadable: {detail}"):
        parse_json(line)


def test_a_raw_row_is_shown_whole_even_if_it_is_not_text():
    assert RawRow(Origin(0, 0), b'{"a": "\xff\xc3\xa9"}').as_text() == '{"a": "\\xff\u00e9"}'
    assert RawRow(Origin(0, 0), {"b": "\u00e9", "a": None}).as_text() == '{"a": null, "b": "\u00e9"}'


def test_equal_values_have_one_fingerprint_and_others_another():
    same = [b'{"a": 1, "b": "\\u00e9"}', ' {"b":"é","a":1} '.encode(), {"b": "é", "a": 1}]
    assert len({RawRow(Origin(0, 0), content).as_bytes() for content in same}) == 1
    broken = [b'{"a": 1', b'{"a": 2', b'{"a": "\xff"}', b'{"a": "\\udc80"}']
    assert len({RawRow(Origin(0, 0), content).as_bytes() for content in [*broken, same[0]]}) == 5


def test_rows_as_deep_as_is_read_are_encoded_wherever_the_call_stands():
    content = b'{"x": ' + b"[" * 400 + b"]" * 400 + b"}"
    row = make_row(Origin(0, 0), content, None)

    def encode_under(calls: int) -> bytes:
        return encode_under(calls - 1) if calls else row.as_bytes()

    assert row.problem is None
    assert encode_under(0) == encode_under(500) == content.replace(b" ", b"").replace(b":", b": ")
