import copy
import json
import pickle
from array import array
from typing import Any

import pytest

from oddsmill.pipeline.formats import keys
from oddsmill.pipeline.formats.pairs import NOTHING, ChatPair, Notes, PairIds, chat_pair
from oddsmill.schemas.drops import Dropped, DropReason

USER, ANSWER = {"role": "user", "content": "2 + 2? é"}, {"role": "assistant", "content": "4"}


def test_a_dialogue_comes_back_as_it_went_in():
    pair = chat_pair([USER], [ANSWER], [{"role": "assistant", "content": "5"}], {"tools": [{"name": "add"}]})
    prompt, chosen, rejected = pair.messages()
    assert (prompt, chosen, rejected) == ([USER], [ANSWER], [{"role": "assistant", "content": "5"}])
    assert "é" in pair.prompt
    assert chat_pair([USER], [ANSWER], [ANSWER]).variables == "{}"


@pytest.mark.parametrize(
    "first",
    [
        USER,
        {"role": "user", "content": ' \n "\u2028\0'},
        {"content": "4", "role": "user"},
        {"role": "user", "content": None},
        {"role": "user", "name": "Bob"},
        USER | {"z": {"b": (1, 2.0), "a": float("inf")}, "c": 1},
        USER | {3: {True: "a key of JSON is a text"}},
    ],
)
@pytest.mark.parametrize("variables", [None, {"b": 1, "a": {"d": 1, "c": (2,)}}])
def test_a_pair_that_knows_its_messages_is_the_one_that_reads_them(first: dict[Any, Any], variables: dict | None):
    pair = chat_pair([first, USER], [ANSWER], [first], variables)
    read = ChatPair(*pair)
    assert repr(pair.messages()) == repr(read.messages())
    assert repr(pair.row_variables()) == repr(read.row_variables())
    assert (keys.pair_id(pair), keys.prompt_id(pair)) == (keys.pair_id(read), keys.prompt_id(read))
    travelled = pickle.loads(pickle.dumps(pair))
    assert travelled == pair == copy.copy(pair) and travelled.messages() == pair.messages()


def test_the_json_text_of_a_pair_is_pythons():
    characters = "".join(chr(code) for code in range(0x11000) if not 0xD800 <= code < 0xE000) + "👍"
    messages = [{"role": 'a "role"\\', "content": characters}, USER]
    pair = chat_pair(messages, [ANSWER], [])
    assert pair == ChatPair(*(json.dumps(part, ensure_ascii=False) for part in (messages, [ANSWER], [])), "{}")
    assert pair.is_plain


@pytest.mark.parametrize(
    ("content", "reason"),
    [("a \ud800", DropReason.UNREADABLE), (b"bytes", DropReason.WRONG_TYPE), ({1, 2}, DropReason.WRONG_TYPE)],
)
def test_what_json_cannot_hold_is_dropped(content: object, reason: DropReason):
    with pytest.raises(Dropped) as dropped:
        chat_pair([USER], [ANSWER], [{"role": "assistant", "content": content}])
    assert dropped.value.reason is reason


def test_a_merged_boundary_is_told_from_other_notes():
    ids = PairIds(*(array("i", [number]) for number in (1, 2, 3)))
    assert not ids.boundary_merged and ids.notes == NOTHING
    assert not ids._replace(notes=Notes.TURN_CUT).boundary_merged
    assert ids._replace(notes=Notes.TURN_CUT | Notes.BOUNDARY_MERGED).boundary_merged
