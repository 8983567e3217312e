import json
from typing import Any

import pytest

from oddsmill.pipeline import SourceConfig
from oddsmill.pipeline.formats.pairs import Pair
from oddsmill.pipeline.formats.parsing import parse_row
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.schemas.chat.transcript import read_transcript
from oddsmill.schemas.drops import Dropped, DropReason, Origin

H, A = "\n\nHuman:", "\n\nAssistant:"
GOOD = {"prompt": "p", "chosen": "c", "rejected": "r"}


def raw(values: Any) -> RawRow:
    return RawRow(Origin(0, 0), values if isinstance(values, bytes) else json.dumps(values).encode())


def one(values: Any, format_name: str, **source: Any) -> Pair:
    (pair,) = parse_row(raw(values), source=SourceConfig(path="a", format=format_name, **source))
    return pair


def transcript(chosen: str, rejected: str) -> Pair:
    return one({"chosen": chosen, "rejected": rejected}, "transcript")


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


@pytest.mark.parametrize(
    ("start", "gap"),
    [
        ("Human:", "\n\n"),
        ("Human:", "\n"),
        ("\nHuman:", "\n\n"),
        ("User:", "\n"),
        ("### Human:", "\n\n"),
        ("### Human:", "\n"),
    ],
)
def test_a_transcript_may_begin_without_a_blank_line_and_name_its_turns_otherwise(start: str, gap: str):
    label = start.strip()
    answer = label.replace("Human", "Assistant").replace("User", "Assistant")
    prompt = f"{start} a{gap}{answer} b{gap}{label} c{gap}{answer}"
    assert transcript(prompt + " yes", prompt + " no") == (prompt, " yes", " no")
    assert read_transcript(prompt) == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        (f"{H} a{A}", [("user", "a")]),
        (f"{H} a {A} ", [("user", "a")]),  # as Nectar writes them
        (f"{H} a", [("user", "a")]),
        (f"{H} a{A} b{H} Human: c\n\nd{A}", [("user", "a"), ("assistant", "b"), ("user", "Human: c\n\nd")]),
        ("Human: is it?", None),  # a text that begins so is a transcript only where it opens the answer
        ("Name a tree.", None),
        ("", None),
    ],
)
def test_the_turns_of_a_prompt_that_is_a_transcript(text: str, turns: list | None):
    assert read_transcript(text) == (turns and [{"role": role, "content": content} for role, content in turns])
