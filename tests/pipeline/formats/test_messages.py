"""The format `messages` reads every form of messages, by names that a source has for roles and keys."""

import json
from typing import Any

import pytest

from oddsmill.pipeline import SourceConfig
from oddsmill.pipeline.formats import messages, triple
from oddsmill.pipeline.formats.pairs import ChatPair
from oddsmill.pipeline.formats.rows import Row
from oddsmill.schemas.drops import Dropped

USER, YES, NO = (
    {"role": role, "content": content} for role, content in (("user", "q"), ("assistant", "yes"), ("assistant", "no"))
)
PAIR = ([USER], [YES], [NO])


def parse(row: dict[str, Any], **source: Any) -> tuple[list, list, list]:
    (pair,) = messages.read(Row(row, {}), SourceConfig(path="a", **source))
    return pair.messages()


def test_a_source_has_its_own_names_for_roles_and_keys():
    row = {
        "prompt": [{"who": "pupil", "said": "q"}],
        "chosen": [{"who": "Tutor", "said": "yes"}],
        "rejected": [{"who": "tutor", "said": "no"}],
    }
    roles, keys = {"tutor": "assistant", "pupil": "user"}, {"role": "who", "content": "said"}
    assert parse(row, roles=roles, message_keys=keys) == PAIR
    assert parse(row, roles={"TUTOR": "assistant", "Pupil": "user"}, message_keys=keys) == PAIR
    with pytest.raises(Dropped, match=r"""bad_roles: who 'Tutor' .*--source\.roles='{"Tutor": "assistant"}'"""):
        parse(row, roles={"pupil": "user"}, message_keys=keys)


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected"),
    [
        (
            "q",
            '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "yes"}]',
            '{"from":"gpt","value":"no"}',
        ),
        ('[{"role": "user", "content": "q"}]', "yes", "no"),
        ('[{"speaker": "Human", "text": "q"}]', '[{"from": "gpt", "text": "yes"}]', '{"role": "bot", "value": "no"}'),
    ],
)
def test_a_conversation_that_is_stored_as_json_text_is_messages_and_no_text(prompt: str, chosen: str, rejected: str):
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    assert parse(row) == PAIR
    with pytest.raises(Dropped, match=r"wrong_type: .* is messages as JSON text; --source.format=messages reads it"):
        triple.read(Row(row, {}), SourceConfig(path="a"))


def test_json_text_of_messages_is_told_by_the_names_that_the_source_gives():
    row = {
        name: json.dumps([{"who": who, "said": said}])
        for name, who, said in (("prompt", "tutee", "q"), ("chosen", "tutor", "yes"), ("rejected", "tutor", "no"))
    }
    names = {"message_keys": {"role": "who", "content": "said"}, "roles": {"tutor": "assistant", "tutee": "user"}}
    assert parse(row, **names) == PAIR
    with pytest.raises(Dropped, match="wrong_type: prompt is messages as JSON text"):
        triple.read(Row(row, {}), SourceConfig(path="a", **names))


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        "[see below]",
        "{}",
        '[{"role": "x"}]',
        '{"name": "a", "from": "b"}',
        '{"from": "Ann", "text": "b"}',
        "[{'a': 1}]",
        '[{"role": "user", "content',
        "[",
    ],
)
def test_a_text_that_begins_like_json_stays_a_text(text: str):
    row = {"prompt": text, "chosen": text + " ", "rejected": "no"}
    (pair,) = triple.read(Row(row, {}), SourceConfig(path="a"))
    assert pair.prompt == text


def test_a_python_repr_of_messages_is_refused_by_name():
    text = repr([USER, YES])
    for row in ({"prompt": "q", "chosen": text, "rejected": repr([USER, NO])}, {"chosen": text, "rejected": text}):
        for read in (triple.read, messages.read):
            with pytest.raises(
                Dropped, match=r"wrong_type: chosen is messages as a Python repr; write JSON|missing_field"
            ):
                read(Row(row, {}), SourceConfig(path="a"))


def sharegpt_pair(**row: Any) -> ChatPair:
    (pair,) = messages.SHAREGPT.read(Row(row, {}), SourceConfig(path="a"))
    return pair


def said(who: str, value: str) -> dict[str, str]:
    return {"from": who, "value": value}


def test_sharegpt_is_messages_under_other_names():
    turns = [said("system", "be brief"), said("human", "q")]
    expected = ([{"role": "system", "content": "be brief"}, USER], [YES], [NO])
    answers = {"chosen": said("gpt", "yes"), "rejected": said("gpt", "no")}
    assert sharegpt_pair(conversations=turns, **answers).messages() == expected
    whole = {side: [*turns, answer] for side, answer in answers.items()}
    assert sharegpt_pair(**whole).messages() == expected
    with_tool = [
        said("human", "q"),
        said("function_call", '{"name": "f", "arguments": "{}"}'),
        said("observation", "42"),
    ]
    prompt = sharegpt_pair(conversations=with_tool, **answers).messages()[0]
    assert [turn["role"] for turn in prompt] == ["user", "assistant", "tool"]


def test_an_unknown_speaker_is_dropped():
    with pytest.raises(Dropped, match="bad_roles: from 'alien'"):
        sharegpt_pair(conversations=[said("alien", "q")], chosen=said("gpt", "a"), rejected=said("gpt", "b"))
