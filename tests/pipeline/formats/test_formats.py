import json
import sys
import types
from typing import Any

import pytest

from oddsmill.pipeline import SourceConfig
from oddsmill.pipeline.drops import Dropped, DropReason, Origin
from oddsmill.pipeline.formats.formats import check_source, detect_format, load_function, parse_row
from oddsmill.pipeline.formats.pairs import ChatPair, Pair
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.schemas.errors import Refused

GOOD = {"prompt": "p", "chosen": "c", "rejected": "r"}
H, A = "\n\nHuman:", "\n\nAssistant:"


def raw(values: Any) -> RawRow:
    return RawRow(Origin(0, 0), values if isinstance(values, bytes) else json.dumps(values).encode())


def one(values: Any, format_name: str, **source: Any) -> Pair:
    (pair,) = parse_row(raw(values), format_name=format_name, source=SourceConfig(path="a", **source))
    return pair


def triple(values: Any, **fields: str) -> Pair:
    return one(values, "triple", fields=fields)


def transcript(chosen: str, rejected: str) -> Pair:
    return one({"chosen": chosen, "rejected": rejected}, "transcript")


def detect(rows: list[Any], **source: Any) -> str:
    return detect_format(map(raw, rows), source=SourceConfig(path="a", **source))


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
        (None, DropReason.WRONG_TYPE, "the row is null, not an object"),
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


def test_a_field_may_lie_in_another_or_be_made_of_several():
    row = {"input": {"text": "p"}, "a.b": "c", "rejected": "r", "more": [["x", "y"], "z"], "none": None, "blank": " "}
    assert one(row, "triple", fields={"prompt": "input.text", "chosen": "a.b"}) == ("p", "c", "r")
    joined = one(row, "triple", fields={"prompt": ["input.text", "none", "blank", "more"], "chosen": "a.b"})
    assert joined.prompt == "p\n\nx\ny\nz"
    with pytest.raises(Dropped, match=r"missing_field: no field 'input\.absent'"):
        one(row, "triple", fields={"prompt": "input.absent"})


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((2, 1), ("p", "c", "r")),
        ((1, 1), "tie"),
        ((1.4, 1), "tie"),
        ((1, 2), "swapped_scores"),
        (("2", 1), "wrong_type"),
    ],
)
def test_the_scores_of_a_pair_are_held_against_it(scores: tuple, expected: Any):
    row = GOOD | {"score_chosen": scores[0], "score_rejected": scores[1]}
    if isinstance(expected, tuple):
        assert one(row, "triple", margin=0.5) == expected
        return
    with pytest.raises(Dropped, match=expected):
        one(row, "triple", margin=0.5)


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
        check_source(SourceConfig(path="a"), "absent_module:f")


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
        check_source(SourceConfig(path="a", **source), format_name)
