from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oddsmill.pipeline import SourceConfig
from oddsmill.pipeline.formats import dialogues, messages
from oddsmill.pipeline.formats.rows import Row
from oddsmill.schemas.drops import Dropped

SOURCE = SourceConfig(path="a")


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content} | more


SYSTEM, USER = message("system", "be brief"), message("user", "q")
YES, NO = message("assistant", "yes"), message("assistant", "no")
PAIR = ([USER], [YES], [NO])
CALL = message("assistant", "", tool_calls=[{"type": "function", "function": {"name": "w", "arguments": {}}}])
TOOL, MORE = message("tool", "4 C"), message("user", "more")


def parse(row: dict[str, Any], names: dict[str, Any] | None = None) -> tuple[list, list, list]:
    (pair,) = messages.read(Row(row, names or {}), SOURCE)
    return pair.messages()


def explicit(prompt: Any, chosen: Any, rejected: Any) -> tuple[list, list, list]:
    return parse({"prompt": prompt, "chosen": chosen, "rejected": rejected})


def implicit(chosen: list, rejected: list) -> tuple[list, list, list]:
    return parse({"chosen": chosen, "rejected": rejected})


def test_an_explicit_prompt_stands_before_both_answers():
    assert explicit([USER], [YES], [NO]) == PAIR
    assert explicit([USER], YES, NO) == PAIR
    assert explicit([USER], "yes", "no") == PAIR
    assert explicit("q", [YES], [NO]) == PAIR


def test_a_column_of_messages_that_ends_in_one_of_the_answers_is_the_prompt_without_it():
    for column in ("messages", "conversations"):
        assert parse({column: [USER, YES], "chosen": "yes", "rejected": "no"}) == PAIR
        assert parse({column: [USER, NO], "chosen": [YES], "rejected": [NO]}) == PAIR


def test_an_implicit_prompt_is_the_turns_before_the_last():
    turns = [SYSTEM, USER, message("assistant", "a"), message("user", "more")]
    assert implicit([*turns, YES], [*turns, NO]) == (turns, [YES], [NO])


def test_whole_dialogues_beside_a_prompt_do_not_repeat_it():
    turns = [USER, message("assistant", "a"), message("user", "more")]
    assert explicit([USER], [*turns, YES], [*turns, NO]) == (turns, [YES], [NO])
    assert explicit("q", [*turns, YES], [*turns, NO]) == (turns, [YES], [NO])
    assert explicit(" more\n", [*turns, YES], [*turns, NO]) == (turns, [YES], [NO])
    with pytest.raises(Dropped, match="no_common_prompt: the prompt is no turn of the dialogues"):
        explicit("another", [*turns, YES], [*turns, NO])


def test_tool_turns_belong_to_the_prompt():
    call = message("assistant", None, tool_calls=[{"function": {"name": "f", "arguments": {"z": 1, "a": 2}}}])
    turns = [USER, call, message("tool", "42")]
    assert implicit([*turns, YES], [*turns, NO]) == (turns, [YES], [NO])
    assert list(implicit([*turns, YES], [*turns, NO])[0][1]["tool_calls"][0]["function"]["arguments"]) == ["z", "a"]


def test_a_call_of_a_tool_may_be_the_answer():
    call = message("assistant", "", tool_calls=[{"function": {"name": "f", "arguments": {}}}])
    assert explicit([USER], [call], [NO]) == ([USER], [call], [NO])


def test_parts_of_text_are_joined_and_null_keys_left_out():
    parts = [{"type": "text", "text": "q"}, {"type": "text", "value": "!"}, "?"]
    assert explicit([message("user", parts, name=None)], [YES], [NO])[0] == [message("user", "q!?")]


@pytest.mark.parametrize("kind", ["image", "image_url", "input_audio", "video"])
def test_parts_that_are_not_text_are_refused_by_name(kind: str):
    with pytest.raises(Dropped, match=f"unsupported_content: a message holds a part '{kind}'"):
        explicit([message("user", [{"type": "text", "text": "q"}, {"type": kind}])], [YES], [NO])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (([USER], [YES, USER], [NO]), "bad_roles: chosen does not end with a turn of the assistant"),
        (([USER], [], [NO]), "bad_roles: chosen does not end"),
        (([USER, CALL], [YES], [NO]), "bad_roles: the turn before the answer is the assistant's too"),
        (
            ([USER, CALL], [TOOL, YES], [message("tool", "5"), NO]),
            "no_common_prompt: the dialogues part at turn 3, of tool",
        ),
        (([USER], [USER, YES], [USER, USER, NO]), "no_common_prompt: .* part at turn 2, of assistant and user"),
        (([SYSTEM], [YES], [NO]), "bad_roles: the turn before the answer is the system's"),
        (([message("narrator", "q")], [YES], [NO]), "bad_roles: role 'narrator'"),
        (([USER], [YES, USER, YES], [YES, USER, YES]), "identical_answers"),
        (([USER], [YES], [YES]), "identical_answers"),
        (([USER], [message("assistant", " \n")], [NO]), "empty_answer: chosen"),
        (([message("user", " ")], [YES], [NO]), "empty_prompt"),
        (([], [YES], [NO]), "empty_prompt"),
        (("q", "yes", "no"), "wrong_type: prompt, chosen and rejected are strings"),
        (([USER], [YES], [5]), "wrong_type: a message is int"),
        (([USER], [YES], 5), "wrong_type: rejected is int, not a list of messages"),
        (([USER], None, [NO]), "wrong_type: chosen is null, not a list of messages"),
        ((5, [YES], [NO]), "wrong_type: the prompt is int, not a list of messages"),
        (([USER], [YES], [message("assistant", None)]), "wrong_type: the content of a message is null"),
        (([{"sender": "human"}], [YES], [NO]), "wrong_type: the content of a message is null"),
        (([{"who": "human", "said": "q"}], [YES], [NO]), "wrong_type: a message is an object of who, said"),
        (([message("user", "\ud800")], [YES], [NO]), "unreadable: a lone surrogate"),
        (([USER], [YES | {"more": b"x"}], [NO]), "wrong_type: a message holds what is not JSON"),
    ],
)
def test_messages_that_are_no_pair_say_why(row: tuple, reason: str):
    with pytest.raises(Dropped, match=reason):
        explicit(*row)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        # the answer is all that follows the turns in common
        (([USER], [CALL, TOOL, YES], [NO]), ([USER], [CALL, TOOL, YES], [NO])),
        (([USER], [YES, MORE, YES], [NO, MORE, NO]), ([USER], [YES, MORE, YES], [NO, MORE, NO])),
        ((None, [USER, YES, MORE, YES], [USER, NO, MORE, NO]), ([USER], [YES, MORE, YES], [NO, MORE, NO])),
        ((None, [SYSTEM, USER, CALL, TOOL, YES], [SYSTEM, USER, NO]), ([SYSTEM, USER], [CALL, TOOL, YES], [NO])),
        ((None, [USER, YES], [USER, YES, MORE, NO]), ([USER], [YES], [YES, MORE, NO])),
        # turns in common go to the prompt, whether the prompt was given or not
        (([USER], [CALL, TOOL, YES], [CALL, TOOL, NO]), ([USER, CALL, TOOL], [YES], [NO])),
        (([USER], [YES, MORE, YES, MORE, YES], [YES, MORE, NO]), ([USER, YES, MORE], [YES, MORE, YES], [NO])),
        ((None, [USER, CALL, TOOL, YES], [USER, CALL, TOOL, NO]), ([USER, CALL, TOOL], [YES], [NO])),
        (([USER, CALL], [TOOL, YES], [TOOL, NO]), ([USER, CALL, TOOL], [YES], [NO])),
        # but an answer begins with a turn of the assistant, and no prompt ends with one
        ((None, [USER, CALL, TOOL, YES], [USER, CALL, NO]), ([USER], [CALL, TOOL, YES], [CALL, NO])),
        ((None, [USER, YES, MORE, YES], [USER, YES, USER, NO]), ([USER], [YES, MORE, YES], [YES, USER, NO])),
        ((None, [USER, YES, YES], [USER, YES, NO]), ([USER], [YES, YES], [YES, NO])),
        # a prompt that opens a turn of the assistant
        (([USER, YES], [YES], [NO]), ([USER, YES], [YES], [NO])),
        (([USER, YES], "yes", "no"), ([USER, YES], [YES], [NO])),
        (([USER, YES], [YES, MORE, YES], [NO]), ([USER, YES], [YES, MORE, YES], [NO])),
        (([USER, YES], [NO, MORE, YES], [NO, MORE, NO]), ([USER, message("assistant", "yesno"), MORE], [YES], [NO])),
        (([USER, message("assistant", "")], [YES], [NO]), PAIR),
        (
            ([USER, YES], [USER, message("assistant", "yesno")], [USER, message("assistant", "yes?")]),
            ([USER, YES], [NO], [message("assistant", "?")]),
        ),
        (([USER, YES], [USER, YES], [USER, NO]), PAIR),
    ],
)
def test_the_prompt_is_the_turns_in_common_and_the_answer_all_that_follows(row: tuple, expected: tuple):
    assert (implicit(*row[1:]) if row[0] is None else explicit(*row)) == expected


def test_sides_that_part_before_an_answer_are_dropped():
    other = message("user", "another")
    for chosen, rejected in (
        ([USER, YES], [other, NO]),
        ([SYSTEM, USER, YES], [USER, NO]),
        ([SYSTEM, USER, YES], [SYSTEM, other, NO]),
    ):
        with pytest.raises(Dropped, match="no_common_prompt"):
            implicit(chosen, rejected)


def test_a_row_gives_tools_and_variables_to_its_template():
    row = {"chosen": [USER, YES], "rejected": [USER, NO], "tools": '[{"name": "f"}]'}
    (pair,) = messages.read(Row(row | {"chat_template_kwargs": {"deep": True}}, {}), SOURCE)
    assert pair.variables == '{"deep": true, "tools": [{"name": "f"}]}'
    with pytest.raises(Dropped, match="wrong_type: tools: broken JSON"):
        messages.read(Row(row | {"tools": "{"}, {}), SOURCE)
    with pytest.raises(Dropped, match="wrong_type: chat_template_kwargs is list"):
        messages.read(Row(row | {"chat_template_kwargs": [1]}, {}), SOURCE)


MORE = message("user", "more")
HELLO = message("assistant", "hello")
BLANKS = ("", " ", None, [], [message("user", "")])


@pytest.mark.parametrize(
    ("prompt", "before", "expected"),
    [
        ([message("user", "q ")], [USER], [USER]),  # the space that somebody stripped
        ([USER], [message("user", "\nq")], [message("user", "\nq")]),
        ([USER | {"id": "a"}], [USER | {"id": "b"}], [USER | {"id": "b"}]),
        ([USER], [SYSTEM, USER], [SYSTEM, USER]),  # the system turn stands in the sides alone
        ([SYSTEM, USER], [USER], [SYSTEM, USER]),  # or in the prompt alone
        ([SYSTEM, USER], [message("system", "be brief "), USER], [message("system", "be brief "), USER]),
        ([SYSTEM], [USER], [SYSTEM, USER]),
        ([MORE], [USER, HELLO, MORE], [USER, HELLO, MORE]),  # the prompt is the last question alone
        ([USER, HELLO], [USER], [USER]),  # the prompt has an answer, too
        ([USER, HELLO], [MORE], [USER, HELLO, MORE]),  # the prompt is what was said before
        ("q ", [USER], [USER]),
        ("q", [SYSTEM, USER], [SYSTEM, USER]),
        *((blank, [SYSTEM, USER], [SYSTEM, USER]) for blank in BLANKS),
    ],
)
def test_whole_sides_are_told_by_roles_and_by_what_a_template_shows(prompt: Any, before: list, expected: list):
    assert explicit(prompt, [*before, YES], [*before, NO]) == (expected, [YES], [NO])


@pytest.mark.parametrize(
    ("prompt", "before"), [([USER], [MORE]), ([SYSTEM, USER], [message("system", "be long"), USER]), ("q", [MORE])]
)
def test_a_prompt_that_whole_sides_lack_drops_the_row(prompt: Any, before: list):
    with pytest.raises(Dropped, match="no_common_prompt"):
        explicit(prompt, [*before, YES], [*before, NO])


def test_one_side_may_be_whole_and_the_other_an_answer():
    assert explicit([USER], [USER | {"id": 1}, YES], "no")[0][0]["content"] == "q"
    assert explicit("q", "yes", [USER, NO]) == PAIR


def test_ids_and_times_make_no_other_turn():
    chosen, rejected = ([USER | {"id": side, "time": side}, HELLO, MORE] for side in "ab")
    assert implicit([*chosen, YES], [*rejected, NO]) == (chosen, [YES], [NO])


@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_a_column_of_messages_is_the_prompt_where_no_side_is_whole(column: str):
    whole = {"chosen": [USER, YES], "rejected": [USER, NO]}
    assert parse({column: [USER], "chosen": YES, "rejected": NO}) == PAIR
    assert parse({column: [SYSTEM, USER], **whole}) == ([SYSTEM, USER], [YES], [NO])
    for messages_there in ([USER, YES], [USER, NO], [USER, HELLO], [MORE, HELLO], [SYSTEM, MORE], None):
        assert parse({column: messages_there, **whole}) == PAIR


TEXT = st.sampled_from(["q", "yes", "no", " q\n", "", " "])
ENCODED, SIDES = '[{"role": "user", "content": "q"}]', (("chosen", YES), ("rejected", NO))
TURN = st.builds(
    lambda names, role, text: dict(zip(names, (role, text), strict=True)),
    st.sampled_from([("role", "content")] * 4 + [("from", "value")]),
    st.sampled_from(["user", "assistant", "assistant", "system", "tool", "human", "none", []]),
    TEXT | st.none() | st.just("\ud800"),
)
TURNS = st.lists(TURN, max_size=3)
PROMPT = st.one_of(st.none(), TEXT, TURN, TURNS.map(lambda turns: [*turns, USER]), TURNS)
VARIABLES = {"tools": st.none() | st.just([{"name": "w"}]), "chat_template_kwargs": st.just({"a": 1})}
ROWS = st.one_of(
    st.builds(
        lambda prompt, before, *sides: {
            "prompt": prompt, **{name: before + side for name, side in zip(("chosen", "rejected"), sides, strict=True)}
        },
        PROMPT, st.just([]) | TURNS.map(lambda turns: [*turns, USER]), *[st.just([YES]) | TURNS | st.just([NO])] * 2,
    ),
    st.builds(
        lambda values, before: values | {"chosen": [*before, USER, YES], "rejected": [*before, USER, NO]},
        st.fixed_dictionaries({}, optional={"prompt": PROMPT, "messages": TURNS} | VARIABLES), TURNS,
    ),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(values=ROWS)
@example({side: [message("user", ENCODED), answer] for side, answer in SIDES} | {"prompt": ENCODED})
def test_a_plain_row_is_read_as_any_other(values: dict[str, Any]):
    def outcome() -> Any:
        row, not_read = Row(values, {}), Counter[str]()
        try:
            (pair,) = messages.read(row, SOURCE)
        except Dropped as dropped:
            return str(dropped)
        row.count_not_read(not_read)
        return pair, pair.messages(), not_read

    plainly = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dialogues, "_read_plain", lambda _: None)
        assert plainly == outcome()


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [SYSTEM, USER], "chosen": [YES], "rejected": [NO]},
        {"chosen": [SYSTEM, USER, YES], "rejected": [SYSTEM, USER, NO], "more": 1},
        {"prompt": "q", "chosen": [SYSTEM, USER, YES], "rejected": [SYSTEM, USER, NO], "score_chosen": 1},
    ],
)
def test_most_rows_are_plain(row: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dialogues, "split_dialogues", lambda *_: pytest.fail("it is read with care"))
    assert parse(row) == ([SYSTEM, USER], [YES], [NO])
