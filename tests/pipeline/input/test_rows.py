"""A raw row: what is unreadable in it, how it is shown, and its fingerprint."""

import json
import random
from typing import Any

import orjson
import pytest

from oddsmill.pipeline.input.rows import RawRow, make_row, parse_json
from oddsmill.schemas.drops import Dropped, Origin
from tests.campaign.drawn_rows import LAYOUTS, draw_row, encode, spoil

# Numbers of which parsers make different values, and parts that break a text.
NUMBERS = (
    "0 -0 -0.0 1e5 1E-5 1e400 -1e400 1e-400 1e19 18446744073709551615 18446744073709551616 -9223372036854775809 01 1. "
    ".5 +1 1e 0x1 1_0 ٣ NaN Infinity -Infinity true nul null 2.2250738585072011e-308"
).split() + [digit * count for digit in "19" for count in (19, 20, 310, 5000)]
PARTS = [
    *rb'" \ { } [ ] , : \u0000 \ud800 \udc00 \ud83d\ude00 \uD83D\u0041 \u00g0 \x41 \/ // 1e999'.split(),
    *(b"\n", b" ", b"\x00", b"\x0b", b"\x7f", b"\xff", b"\xa0", b"\xed\xa0\x80", b"\xc0\x80", b"\xe2\x80\xa8"),
    *(b"\xef\xbb\xbf", b"\xf4\x90\x80\x80"),
    *(number.encode() for number in NUMBERS),
]


def draw_text(rng: random.Random) -> bytes:
    """A row of a known layout, spoilt or not, or a small text of hard parts."""
    kind = rng.randrange(4)
    if kind < 2:
        text = encode(rng, draw_row(rng, rng.choice(LAYOUTS), sound=kind == 0).values)
        text = spoil(rng, text) if rng.random() < 0.3 else text
    elif kind == 2:
        first, second, third, fourth = rng.choices(NUMBERS, k=4)
        text = f'{{"a":{first},"b":[{second},{{"c":{third}}}],"a":{fourth}}}'.encode()
    else:
        text = b'{"a":' + b"".join(rng.choices(PARTS, k=rng.randrange(1, 5))) + b"}"
    for _ in range(rng.choice((0, 0, 1, 2))):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(PARTS) + text[at + rng.randrange(2) :]
    return text


def parsed(text: bytes) -> str | Dropped:
    """The value of a text as `repr` has it: with its types, the sign of zero and the order of keys."""
    try:
        return repr(parse_json(text))
    except Dropped as dropped:
        return dropped


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


def test_the_fast_parser_makes_of_every_text_what_the_standard_library_makes(monkeypatch: pytest.MonkeyPatch):
    rng = random.Random(0)
    texts = [draw_text(rng) for _ in range(2500)]
    fast = [*map(parsed, texts)]

    def refuse(text: bytes) -> None:
        raise orjson.JSONDecodeError("", "", 0)

    monkeypatch.setattr(orjson, "loads", refuse)
    slow = [*map(parsed, texts)]
    assert [each for each in zip(texts, fast, slow, strict=True) if str(each[1]) != str(each[2])] == []
    assert 500 < sum(isinstance(value, str) for value in fast) < 2000  # many of each were drawn


def test_a_raw_row_is_shown_whole_even_if_it_is_not_text():
    assert RawRow(Origin(0, 0), b'{"a": "\xff\xc3\xa9"}').as_text() == '{"a": "\\xff\u00e9"}'
    assert RawRow(Origin(0, 0), {"b": "\u00e9", "a": None}).as_text() == '{"a": null, "b": "\u00e9"}'


def test_equal_values_have_one_fingerprint_and_others_another():
    same = [b'{"a": 1, "b": "\\u00e9"}', ' {"b":"é","a":1} '.encode(), {"b": "é", "a": 1}]
    assert len({RawRow(Origin(0, 0), content).as_bytes() for content in same}) == 1
    broken = [b'{"a": 1', b'{"a": 2', b'{"a": "\xff"}', b'{"a": "\\udc80"}']
    assert len({RawRow(Origin(0, 0), content).as_bytes() for content in [*broken, same[0]]}) == 5


@pytest.mark.parametrize(
    ("row", "canonical"),
    [
        ({"b": "é\x7f😀", "a": "x"}, '{"a": "x", "b": "\\u00e9\\u007f\\ud83d\\ude00"}'),
        ({"a": None, "b": "", "c": " ", "d": []}, '{"c": " ", "d": []}'),
        (
            {"a": 1, "b": 1.0, "c": "1.00", "d": "1.5", "e": True},
            '{"a": "1", "b": "1", "c": "1", "d": "1.5", "e": "true"}',
        ),
        ({"a": [{"y": 2.0, "x": None, "": [None, 1e300]}]}, f'{{"a": [{{"": [null, {int(1e300)}], "y": 2}}]}}'),
        ({"a": '[{"y": 2.0, "x": null}]', "b": "[INST]"}, '{"a": [{"y": 2}], "b": "[INST]"}'),
        (
            {"a": [{"role": "user", "content": "q"}], "b": 2**70},
            '{"a": [{"content": "q", "role": "user"}], "b": "1180591620717411303424"}',
        ),
        ({"a": [{"y": "t", "x": None}, [None]]}, '{"a": [{"y": "t"}, [null]]}'),
        ({"a": [{"y": [1.5, 2.0]}]}, '{"a": [{"y": [1.5, 2]}]}'),
        (
            {"a": "[{'b': 1.0}]", "b": "[ NaN]", "c": '{ "x": 1.0}'},
            """{"a": "[{'b': 1.0}]", "b": [NaN], "c": {"x": 1}}""",
        ),
        ([1.0, {"a": None}, "1.0"], '[1, {}, "1.0"]'),
    ],
)
def test_equal_rows_have_one_text_for_their_fingerprint(row: Any, canonical: str):
    assert RawRow(Origin(0, 0), json.dumps(row).encode()).as_bytes() == canonical.encode()


def test_rows_as_deep_as_is_read_are_encoded_wherever_the_call_stands():
    content = b'{"x": ' + b"[" * 400 + b"]" * 400 + b"}"
    row = make_row(Origin(0, 0), content, None)

    def encode_under(calls: int) -> bytes:
        return encode_under(calls - 1) if calls else row.as_bytes()

    assert row.problem is None
    assert encode_under(0) == encode_under(500) == content.replace(b" ", b"").replace(b":", b": ")
