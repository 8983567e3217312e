import pytest

from oddsmill.pipeline import SourceConfig
from oddsmill.pipeline.formats import sharegpt as sharegpt_format
from oddsmill.pipeline.formats.pairs import ChatPair
from oddsmill.pipeline.formats.rows import Row
from oddsmill.schemas.drops import Dropped

SYSTEM, USER = {"role": "system", "content": "be brief"}, {"role": "user", "content": "q"}
YES, NO = {"role": "assistant", "content": "yes"}, {"role": "assistant", "content": "no"}


def sharegpt(**row: object) -> ChatPair:
    (pair,) = sharegpt_format.FORMAT.read(Row(row, {}), SourceConfig(path="a"))
    return pair


def said(who: str, value: str) -> dict[str, str]:
    return {"from": who, "value": value}


def test_sharegpt_is_messages_under_other_names():
    turns = [said("system", "be brief"), said("human", "q")]
    expected = ([SYSTEM, USER], [YES], [NO])
    answers = {"chosen": said("gpt", "yes"), "rejected": said("gpt", "no")}
    assert sharegpt(conversations=turns, **answers).messages() == expected
    whole = {side: [*turns, answer] for side, answer in answers.items()}
    assert sharegpt(**whole).messages() == expected
    with_tool = [
        said("human", "q"),
        said("function_call", '{"name": "f", "arguments": "{}"}'),
        said("observation", "42"),
    ]
    prompt = sharegpt(conversations=with_tool, **answers).messages()[0]
    assert [turn["role"] for turn in prompt] == ["user", "assistant", "tool"]


def test_an_unknown_speaker_is_dropped():
    with pytest.raises(Dropped, match="bad_roles: from 'alien'"):
        sharegpt(conversations=[said("alien", "q")], chosen=said("gpt", "a"), rejected=said("gpt", "b"))
