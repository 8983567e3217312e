import json
from typing import Any

import pytest

from oddsmill.pipeline import SourceConfig
from oddsmill.pipeline.formats.pairs import ChatPair, Pair
from oddsmill.pipeline.formats.parsing import parse_row
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.schemas.drops import Dropped, Origin

TEXTS = {"prompt": "q", "chosen": "a", "rejected": "b"}
ASKED, YES, NO = (
    {"role": role, "content": text} for role, text in (("user", "q"), ("assistant", "a"), ("assistant", "b"))
)
CHAT = {"prompt": [ASKED], "chosen": [YES], "rejected": [NO]}
WHOLE = {"chosen": [ASKED, YES], "rejected": [ASKED, NO]}
HI, HELLO = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def parse(row: dict, format_name: str = "triple", *, chat: bool = False, **fields: Any) -> Pair:
    raw = RawRow(Origin(0, 0), json.dumps(row).encode())
    (pair,) = parse_row(raw, source=SourceConfig(path="a", format=format_name, fields=fields), chat=chat)
    return pair


def prompt_of(pair: Pair) -> list[dict[str, Any]]:
    assert isinstance(pair, ChatPair)
    return pair.messages()[0]


@pytest.mark.parametrize("row", [CHAT, WHOLE])
def test_a_system_column_becomes_the_first_turn(row: dict):
    assert prompt_of(parse(row | {"system": "s"}, "messages")) == [system("s"), ASKED]
    assert prompt_of(parse(row | {"system_prompt": "s"}, "messages")) == [system("s"), ASKED]
    assert prompt_of(parse(row | {"system": json.dumps(system("s"))}, "messages")) == [system("s"), ASKED]
    assert prompt_of(parse(row | {"persona": "s"}, "messages", system="persona")) == [system("s"), ASKED]
    for nothing in (None, "", " \n"):
        assert parse(row | {"system": nothing}, "messages") == parse(row, "messages")
    assert parse(row | {"system": "s"}, "messages", system=[]) == parse(row, "messages")


def test_a_system_turn_that_the_dialogue_has_already_stands_once():
    own = {"prompt": [system("s"), ASKED], "chosen": [YES], "rejected": [NO]}
    assert prompt_of(parse(own | {"system": "s "}, "messages")) == [system("s"), ASKED]
    with pytest.raises(Dropped, match=r"bad_roles: .*another; --source.fields.system=\[\] leaves the column out"):
        parse(own | {"system": "t"}, "messages")


@pytest.mark.parametrize(
    "history",
    [
        [["Hi", "Hello."]],
        [HI, HELLO],
        '[["Hi", "Hello."]]',  # as a CSV file holds it
    ],
)
def test_a_history_becomes_turns_before_the_prompt(history: Any):
    assert prompt_of(parse(CHAT | {"history": history}, "messages")) == [HI, HELLO, ASKED]
    own = {"prompt": [system("s"), ASKED], "chosen": [YES], "rejected": [NO]}
    assert prompt_of(parse(own | {"history": history}, "messages")) == [system("s"), HI, HELLO, ASKED]
    for nothing in (None, [], "", "[]"):
        assert parse(CHAT | {"history": nothing}, "messages") == parse(CHAT, "messages")


def test_a_history_that_the_dialogue_has_already_stands_once():
    turns = [system("s"), HI, HELLO, ASKED]
    for row in (CHAT | {"prompt": turns}, {"chosen": [*turns, YES], "rejected": [*turns, NO]}):
        assert prompt_of(parse(row | {"history": [["Hi", "Hello."]]}, "messages")) == turns


def test_texts_keep_what_stands_before_their_prompt_as_paragraphs():
    before = {"system": "s!", "history": [["Hi", "Hello."]]}
    assert parse(TEXTS | before) == ("s!\n\nHi\n\nHello.\n\nq", "a", "b")
    assert parse(TEXTS | {"system": "s!", "prompt": "s!\nq"}).prompt == "s!\nq"  # it holds the system's text already
    said = "\n\nHuman: q\n\nAssistant:"
    row = {"chosen": said + " a", "rejected": said + " b", "system": "s!"}
    assert parse(row, "transcript") == ("s!" + said, " a", " b")


def test_a_column_that_is_named_for_another_field_is_that_field():
    row = {"history": "q", "chosen": "a", "rejected": "b", "system": "s"}
    assert parse(row, prompt="history", system=[]) == ("q", "a", "b")
    assert parse(row, prompt=["system", "history"]) == ("s\n\nq", "a", "b")


@pytest.mark.parametrize("column", ["images", "image", "videos", "video", "audios", "audio"])
def test_a_row_with_an_image_a_video_or_a_sound_is_dropped(column: str):
    for row, name in ((TEXTS, "triple"), (CHAT, "messages"), (WHOLE, "messages")):
        for something in (["a.png"], "a.png", {"bytes": "x", "path": None}, [None, "a.png"]):
            with pytest.raises(Dropped, match=rf"unsupported_content: '{column}' is not empty.*images=\[\]"):
                parse(row | {column: something}, name)
        for nothing in (None, [], "", "[]", [None], {}, False, "False"):
            assert parse(row | {column: nothing}, name) == parse(row, name)
        assert parse(row | {column: "a.png"}, name, images=[]) == parse(row, name)
    with pytest.raises(Dropped, match="unsupported_content: 'pixels' is not empty"):
        parse(TEXTS | {"pixels": "a.png"}, images="pixels")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"system": 5}, "wrong_type: 'system' is int, not a text"),
        ({"system": "\ud800"}, "unreadable"),
        ({"history": "Hi, hello"}, r"wrong_type: 'history' holds str, .*history=\[\] leaves the column out"),
        ({"history": [["Hi"]]}, "wrong_type: 'history' holds list"),
        ({"history": [["Hi", None]]}, "wrong_type: 'history' holds list"),
        ({"history": [{"who": "x"}]}, "wrong_type"),
    ],
)
def test_what_cannot_stand_before_a_prompt_drops_the_row(more: dict, reason: str):
    with pytest.raises(Dropped, match=reason):
        parse(TEXTS | more)


def test_texts_become_dialogues_where_that_is_wanted():
    assert parse(TEXTS, chat=True).messages() == ([ASKED], [YES], [NO])
    row = TEXTS | {"system": "s", "history": [["Hi", "Hello."]], "tools": [], "chat_template_kwargs": {"x": 1}}
    pair = parse(row, chat=True)
    assert pair.messages() == ([system("s"), HI, HELLO, ASKED], [YES], [NO])
    assert json.loads(pair.variables) == {"x": 1}
    assert parse(CHAT, "messages", chat=True) == parse(CHAT, "messages")
    scored = {"prompt": "q", "completions": ["b", "a"], "scores": [1, 2]}
    assert parse(scored, "ranked", chat=True).messages() == ([ASKED], [YES], [NO])


def test_turns_of_a_transcript_become_turns():
    start = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: q\n\nAssistant:"
    turns = ([HI, HELLO, ASKED], [YES], [NO])
    assert parse({"chosen": start + " a", "rejected": start + " b"}, "transcript", chat=True).messages() == turns
    assert parse({"prompt": start, "chosen": " a", "rejected": " b"}, chat=True).messages() == turns
    with pytest.raises(Dropped, match="bad_roles: the turn before the answer is the assistant's too"):
        parse({"prompt": start + " x\n\nAssistant:", "chosen": " a", "rejected": " b"}, chat=True)
