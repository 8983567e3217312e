import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.typed_json import Count, Digest, Malformed, Range, as_type, parse_json, read_object


@dataclass(frozen=True)
class Part:
    name: str
    size: Annotated[int, Range(1, 9)]


@dataclass(frozen=True)
class Whole:
    parts: list[Part]
    share: float
    kind: Literal["a", "b"] | None
    counts: dict[str, Count] = field(default_factory=dict)
    place: tuple[int, Digest] | None = None
    any: Any = None


GOOD = {
    "parts": [{"name": "x", "size": 3}],
    "share": 1,
    "kind": "a",
    "counts": {"n": 0},
    "place": [7, "0" * 64],
    "any": {"deep": [1, None]},
}


def test_an_object_becomes_its_dataclass():
    found = as_type(Whole, GOOD)
    assert found == Whole([Part("x", 3)], 1.0, "a", {"n": 0}, (7, "0" * 64), {"deep": [1, None]})
    assert type(found.share) is float
    assert as_type(Whole, {"parts": [], "share": 0.5, "kind": None}) == Whole([], 0.5, None)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"parts": [{"name": "x", "size": 10}]}, "parts[0].size=10: must be a whole number from 1 to 9"),
        ({"parts": [{"name": 1, "size": 1}]}, "parts[0].name=1: must be a text"),
        ({"parts": [{"name": "x"}]}, "parts[0].size is missing"),
        ({"parts": [3]}, "parts[0]=3: must be an object"),
        ({"parts": {}}, "parts={}: must be a list"),
        ({"share": "1"}, 'share="1": must be a number'),
        ({"share": True}, "share=true: must be a number"),
        ({"share": float("nan")}, "share=NaN: must be a number"),
        ({"kind": "c"}, 'kind="c": must be "a" or "b" or null'),
        ({"kind": 1}, 'kind=1: must be "a" or "b" or null'),
        ({"counts": {"n": -1}}, "counts.n=-1: must be a whole number of at least 0"),
        ({"counts": {"n": 2**53}}, "counts.n=9007199254740992: must be a whole number of at least 0"),
        ({"counts": []}, "counts=[]: must be an object"),
        ({"place": [7, "0"]}, 'place[1]="0": must be 64 hexadecimal digits'),
        ({"place": [7]}, "place=[7]: must be a list of 2"),
        ({"any": json.loads("[" * 80 + "]" * 80)}, "any: objects and lists are nested more than 64 deep"),
        ({"more": 1}, "more is no field that is known here"),
        ({"a\x1b[2J\n": 1}, r"a\u001b[2J\n is no field that is known here"),
    ],
)
def test_a_value_that_a_field_does_not_take_is_refused_by_its_dotted_name(change: dict, problem: str):
    with pytest.raises(Malformed) as caught:
        as_type(Whole, GOOD | change)
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no JSON"),
        (b'{"a": 1, "b": 2, "a": 1}', 'has the key "a" twice'),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": NaN}', "holds NaN, which is no number"),
        (b'{"a": 1e400}', "number 1e400, which is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"a": "\xff"}', "what UTF-8 cannot"),
        (b'{"a": "\\ud800"}', "what UTF-8 cannot"),
        (b"\xef\xbb\xbf{}", "no JSON"),
        (b"{} {}", "no JSON"),
    ],
)
def test_what_is_not_strictly_json_is_refused(content: bytes, problem: str):
    with pytest.raises(Malformed, match=problem):
        parse_json(content)


def test_text_of_pairs_of_surrogates_and_numbers_that_are_not_finite_are_read_where_they_may_be():
    assert parse_json(rb'"\ud83d\ude00"') == "\U0001f600"
    assert parse_json(b"[Infinity]", finite=False) == [float("inf")]


def test_a_file_is_refused_with_its_name_and_what_to_do(tmp_path: Path):
    path = tmp_path / "f.json"
    for content, problem in (
        (b"[]", r"f.json is damaged \(it holds \[\], no object\); fetch"),
        (b"{", "damaged .*no JSON"),
    ):
        path.write_bytes(content)
        with pytest.raises(Refused, match=problem):
            read_object(path, advice="fetch it again")
    path.write_bytes(b"{}" + b" " * 100)
    assert read_object(path, advice="") == {}
    with pytest.raises(Refused, match="it has 102 bytes, more than the 50 that are read"):
        read_object(path, advice="", max_bytes=50)
    with pytest.raises(Refused, match=r"none.json cannot be read \(No such file"):
        read_object(tmp_path / "none.json", advice="")
