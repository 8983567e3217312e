import json
from typing import Any

import pytest

from pipeline.drops import Dropped, DropReason, Origin
from pipeline.formats import PreferencePair, detect_format, parse_row
from pipeline.sources import RawRow
from schemas.errors import Refused

GOOD = {"prompt": "p", "chosen": "c", "rejected": "r"}
H, A = "\n\nHuman:", "\n\nAssistant:"


def raw(values: Any) -> RawRow:
    return RawRow(Origin(0, 0), values if isinstance(values, bytes) else json.dumps(values).encode())


def triple(values: Any, **fields: str) -> PreferencePair:
    return parse_row(raw(values), format_name="triple", fields=fields)


def transcript(chosen: str, rejected: str) -> PreferencePair:
    return parse_row(raw({"chosen": chosen, "rejected": rejected}), format_name="transcript", fields={})


def test_a_triple_is_taken_as_it_stands():
    assert triple({"prompt": " p\n", "chosen": " c", "rejected": "r ", "more": 1}) == (" p\n", " c", "r ")


def test_fields_may_have_other_names():
    assert triple({"question": "p", "chosen": "c", "rejected": "r"}, prompt="question") == ("p", "c", "r")
    with pytest.raises(Dropped, match="missing_field: no field 'question'"):
        triple(GOOD, prompt="question")


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        (b"{", DropReason.UNREADABLE, "broken JSON"),
        (b'{"prompt": "\\ud800", "chosen": "c", "rejected": "r"}', DropReason.UNREADABLE, "lone surrogate at"),
        ([1], DropReason.WRONG_TYPE, "the row is list, not an object"),
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


def test_a_transcript_is_split_before_its_last_answer():
    start = f"{H} a{A} b{H} c{A}"
    assert transcript(start + " yes", start + " no") == (start, " yes", " no")


def test_answers_that_begin_alike_lose_nothing_to_the_prompt():
    prompt = f"{H} capital of France?{A}"
    pair = transcript(prompt + " The capital is Paris", prompt + " The capital is Prague")
    assert pair == (prompt, " The capital is Paris", " The capital is Prague")


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (f"{H} a{A} b", f"{H} x{A} b", DropReason.NO_COMMON_PROMPT),
        (f"{H} a{A} b", f"{H} a{A} c{H} d{A} e", DropReason.NO_COMMON_PROMPT),
        (f"{H} a{A} b{H} c{A} d", f"{H} a{A} b", DropReason.NO_COMMON_PROMPT),
        (f"{H} a{A} b{H} c", f"{H} a{A} b", DropReason.BAD_ROLES),
        (f"{H} a{A} b", f"{H} a{A} b{H} c", DropReason.BAD_ROLES),
        (f"{H} a", f"{H} b", DropReason.BAD_ROLES),
        (f"{A} b", f"{A} c", DropReason.BAD_ROLES),
        ("Human: a Assistant: b", "x", DropReason.BAD_ROLES),
        (f"{H} a{A} ", f"{H} a{A} b", DropReason.EMPTY_ANSWER),
        (f"{H} a{A} b", f"{H} a{A} b", DropReason.IDENTICAL_ANSWERS),
    ],
)
def test_a_transcript_whose_turns_do_not_fit_is_dropped(chosen: str, rejected: str, reason: DropReason):
    with pytest.raises(Dropped) as dropped:
        transcript(chosen, rejected)
    assert dropped.value.reason is reason


def test_the_format_is_the_one_under_which_rows_become_pairs():
    dialogue = {"chosen": f"{H} a{A} b", "rejected": f"{H} a{A} c"}
    assert detect_format([raw(b"{"), raw(GOOD)], fields={}) == "triple"
    assert detect_format([raw(dialogue)], fields={}) == "transcript"
    assert detect_format([raw(dialogue | {"prompt": "p"})], fields={}) == "triple"


def test_a_format_that_cannot_be_told_is_refused_with_the_fields_there_are():
    with pytest.raises(Refused, match=r"reads as triple or transcript \(fields of the first: 'question', 'a'\)"):
        detect_format([raw({"question": "x", "a": "y"})], fields={})
    with pytest.raises(Refused, match="there are none"):
        detect_format([], fields={})
