from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

from oddsmill.schemas.chat.messages import MessageForms, are_same_turns, read_message, read_turns
from oddsmill.schemas.drops import Dropped
from oddsmill.schemas.errors import Refused


def test_a_message_keeps_what_it_has_but_nulls():
    message = {"role": "tool", "content": "42", "name": "f", "tool_calls": None}
    assert read_message(message) == {"role": "tool", "content": "42", "name": "f"}
    calls = [{"id": 1, "type": "function", "function": {"name": "f", "arguments": {}}}]
    call = {"role": "assistant", "content": None, "tool_calls": calls}
    assert read_message(call) == call


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("hello", "wrong_type: a message is str, not an object of role and content"),
        ({"content": "q"}, "wrong_type: a message is an object of content, not"),
        ({"role": "narrator", "content": "q"}, "bad_roles: role 'narrator' is not one of system, developer, user"),
        ({"role": "user", "content": None}, "wrong_type: the content of a message is null"),
        ({"role": "user", "content": [{"type": "image"}]}, "unsupported_content: a message holds a part 'image'"),
    ],
)
def test_a_message_that_cannot_be_read_says_why(value: Any, reason: str):
    with pytest.raises(Dropped, match=reason):
        read_message(value)


def test_calls_that_are_told_one_by_one_are_one_turn():
    told = [{"from": "function_call", "value": f'{{"name": "{name}", "arguments": {{}}}}'} for name in "fg"]
    names = [
        [call["function"]["name"] for call in turn.get("tool_calls", [])]
        for turn in read_turns(
            "prompt", [{"from": "gpt", "value": "Wait."}, *told, {"from": "observation", "value": "4"}]
        )
    ]
    assert names == [["f", "g"], []]


def test_a_sources_own_names_win_over_known_ones():
    forms = MessageForms(roles={"bot": "user", "Tutor": "assistant", "act": "function_call"}, keys={"content": "said"})
    assert read_message({"role": "bot", "said": "q"}, forms) == {"role": "user", "content": "q"}
    assert read_message({"from": "Tutor", "said": "a", "value": 5}, forms)["content"] == "a"
    assert read_message({"role": "ACT", "said": '{"name": "f"}'}, forms)["tool_calls"][0]["function"]["name"] == "f"


@pytest.mark.parametrize(
    ("forms", "problem"),
    [
        (MessageForms(roles={"tutor": "teacher"}), r"--source\.roles=.* a role means one of system, .*function_call"),
        (MessageForms(keys={"name": "who"}), r"--source\.message_keys=.* the keys of a message are role and content"),
        (MessageForms(keys={"role": ""}, option=""), r"--message_keys=.* give the source's names"),
    ],
)
def test_names_that_mean_nothing_are_refused(forms: MessageForms, problem: str):
    with pytest.raises(Refused, match=problem):
        forms.check()


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"content": " a\n"}, True),
        ({"id": "x", "time": 5}, True),
        ({"content": "b"}, False),
        ({"role": "user"}, False),
        ({"reasoning": "hm"}, False),
        ({"tool_calls": [{"function": {"name": "f", "arguments": {}}}]}, False),
    ],
)
def test_turns_are_the_same_where_a_template_shows_them_alike(change: dict[str, Any], same: bool):
    turn = {"role": "assistant", "content": "a"}
    assert are_same_turns([turn], [turn | change]) is same
    assert not are_same_turns([turn], [turn, turn])


def test_ids_of_calls_make_no_other_turn():
    calls = [[{"id": number, "function": {"name": "f", "arguments": {"x": 1}}}] for number in (1, 2)]
    first, second = ({"role": "assistant", "content": None, "tool_calls": call} for call in calls)
    assert are_same_turns([first], [second])


def test_a_message_of_role_and_text_alone_is_read_as_any_other():
    """Such a message is read on a way of its own."""

    def read(reader: Callable[[Any], Any], message: Any) -> Any:
        try:
            return reader(message)
        except Dropped as dropped:
            return str(dropped)

    names = (
        "user",
        "human",
        "gpt",
        "Human",
        " user",
        "ipython",
        "function_call",
        "developer",
        "nobody",
        "",
        None,
        1,
        ["user"],
    )
    contents = ("x", "", " x ", None, ["x"], [{"type": "text", "text": "x"}], {"text": "x"}, 1, "\ud800")
    for keys in (("role", "content"), ("from", "value"), ("role", "value"), ("from", "content"), ("role", "from")):
        for message in (dict(zip(keys, values, strict=True)) for values in product(names, contents)):
            expected = read(lambda value: [read_message(value)], message)
            assert read(lambda value: read_turns("chosen", [value]), message) == expected
