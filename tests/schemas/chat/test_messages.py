from typing import Any

import pytest

from oddsmill.schemas.chat.messages import read_message
from oddsmill.schemas.drops import Dropped


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
