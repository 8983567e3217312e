"""The system's text and the turns before a prompt; tests/pipeline/formats/test_context.py has what rows they are in."""

import pytest

from oddsmill.schemas.chat.context import Context, read_context, text_with_context, turns_with_context
from oddsmill.schemas.chat.messages import MessageForms
from oddsmill.schemas.drops import Dropped

HI, HELLO, ASKED = (
    {"role": role, "content": text} for role, text in (("user", "Hi"), ("assistant", "Hello."), ("user", "q"))
)
CONTEXT = Context("s", [HI, HELLO])


def test_columns_that_say_the_same_are_one_context():
    for history in ([["Hi", "Hello."]], [HI, {"from": "gpt", "value": "Hello."}]):
        assert read_context([("system", ""), ("system_prompt", "s")], [("history", history)], []) == CONTEXT
    assert read_context([("system", [{"role": "system", "content": "s"}])], [], []) == Context("s", [])
    assert read_context([("system", None)], [("history", "[]")], [("images", [None])]) is None


def test_a_context_stands_before_the_prompt():
    system = {"role": "system", "content": "s"}
    assert turns_with_context([ASKED], CONTEXT) == [system, HI, HELLO, ASKED]
    assert turns_with_context([system, ASKED], CONTEXT) == [system, HI, HELLO, ASKED]
    assert text_with_context("q", CONTEXT) == "s\n\nHi\n\nHello.\n\nq"


@pytest.mark.parametrize(
    ("system", "prompt", "held"),
    [
        ("Translate", "Translate this: x", False),
        ("Translate", "Translate\nthis: x", True),
        ("Translate", "SYSTEM:\n Translate \n\nUSER: x", True),
        ("Translate all that the user says into Latin.", "[Translate all that the user says into Latin.] x", True),
        ("Translate all that the user says into Latin.", "Translate all that the user says into French. x", False),
    ],
)
def test_a_system_text_is_left_out_only_where_the_prompt_says_it(system: str, prompt: str, held: bool):
    assert text_with_context(prompt, Context(system, [])) == (prompt if held else f"{system}\n\n{prompt}")


@pytest.mark.parametrize(("option", "ending"), [("source.", r"=\[\] leaves the column out$"), ("", "texts are read$")])
def test_a_setting_is_named_where_there_is_one(option: str, ending: str):
    with pytest.raises(Dropped, match=f"unsupported_content: 'image' is not empty, .*{ending}"):
        read_context([], [], [("image", "a.png")], MessageForms(option=option))
