"""Tools and calls of tools, in every form that rows have them."""

import json
from typing import Any

import pytest

from oddsmill.schemas.chat.tools import read_arguments, read_calls, read_tools, read_variables
from oddsmill.schemas.drops import Dropped

SCHEMA = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
TEXT = json.dumps(SCHEMA)
CALL = {"type": "function", "function": {"name": "f", "arguments": {"z": 1, "a": [None, {"b": 2}]}}}


@pytest.mark.parametrize(
    "tools",
    [
        [SCHEMA],
        SCHEMA,
        TEXT,
        f"[{TEXT}]",
        [TEXT],
        json.dumps([TEXT]),
        json.dumps(f"[{TEXT}]"),
        [SCHEMA | {"strict": None}],
    ],
)
def test_tools_have_many_forms_and_one_reading(tools: Any):
    assert read_tools(tools) == [SCHEMA]


@pytest.mark.parametrize("tools", [None, [], "", " ", "null", "[]"])
def test_no_tools_have_many_forms_too(tools: Any):
    assert read_tools(tools) == [] and read_variables(None, tools) == {}


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        (5, "tools is int, not a list of schemas"),
        ("5", "tools is int"),
        ([5], "a tool is int, not a JSON schema"),
        ([None], "a tool is null"),
        ([[SCHEMA]], "a tool is list"),
        ([{}], "a tool is an object of nothing, without a name"),
        (["weather"], "a tool: broken JSON"),
        ("[{'type': 'function'}]", "tools: a Python repr; write JSON"),
    ],
)
def test_what_is_no_tool_is_dropped(tools: Any, problem: str):
    with pytest.raises(Dropped, match=f"wrong_type: {problem}"):
        read_tools(tools)


def test_null_keys_of_a_schema_are_absent_keys_and_literals_stay():
    literals = {"default": {"a": None}, "enum": ["x", None], "const": None, "examples": [None]}
    properties = {"default": {"type": "string"} | literals, "const": {"anyOf": [{"type": "null"}], "default": None}}
    named = {"name": "f", "parameters": {"type": "object", "properties": properties}}
    assert read_tools([named]) == [named]
    # Arrow gives the objects of a column the same keys: then a null default is one that a schema can have.
    added = {
        "city": None,
        "default": properties["default"] | {"const": None, "title": None},
        "const": properties["const"],
    }
    expected = properties | {"default": {key: part for key, part in properties["default"].items() if key != "const"}}
    del added["default"]["enum"], expected["default"]["enum"]
    arrow = {"name": "f", "strict": None, "parameters": {"type": "object", "properties": added, "required": None}}
    assert read_tools([arrow]) == [{"name": "f", "parameters": {"type": "object", "properties": expected}}]


@pytest.mark.parametrize(
    "calls",
    [
        [CALL],
        CALL,
        json.dumps([CALL]),
        [json.dumps(CALL)],
        [
            {
                "type": "function",
                "id": None,
                "function": CALL["function"] | {"arguments": json.dumps(CALL["function"]["arguments"])},
            }
        ],
        [CALL["function"]],
        [{"name": "f", "parameters": CALL["function"]["arguments"]}],
        [
            {
                "type": "function",
                "function": {"name": "f", "arguments": {"z": 1, "x": None, "a": [None, {"b": 2, "c": None}]}},
            }
        ],
    ],
)
def test_calls_have_many_forms_and_one_reading(calls: Any):
    assert read_calls(calls) == [CALL]
    assert list(read_calls(calls)[0]["function"]["arguments"]) == ["z", "a"]  # templates write them in this order


@pytest.mark.parametrize("arguments", [None, {}, "", " ", "null", "{}", '"{}"', '"null"'])
def test_no_arguments_are_an_empty_object(arguments: Any):
    assert read_arguments(arguments) == {}
    assert read_calls([{"name": "f", "arguments": arguments}])[0]["function"]["arguments"] == {}


@pytest.mark.parametrize("text", ["city=Oslo", '{"city": "Os', "[1]", "5"])
def test_arguments_that_are_no_object_stay_the_text_that_they_are(text: str):
    assert read_arguments(text) == text  # a rejected answer may well be broken


@pytest.mark.parametrize(
    ("calls", "problem"),
    [
        (5, "tool_calls is int"),
        ([5], "a call of a tool is int"),
        ([{"id": "c"}], "a call of a tool has no name, only id"),
        ([{"name": "f", "arguments": 5}], "the arguments of a call are int"),
    ],
)
def test_what_is_no_call_is_dropped(calls: Any, problem: str):
    with pytest.raises(Dropped, match=f"wrong_type: {problem}"):
        read_calls(calls)


def test_a_null_variable_is_an_absent_one():
    assert read_variables({"effort": None, "deep": {"x": None, "y": 1}}) == {"deep": {"y": 1}}
    assert read_variables('{"effort": "high"}', [SCHEMA]) == {"effort": "high", "tools": [SCHEMA]}
    with pytest.raises(Dropped, match="wrong_type: chat_template_kwargs is int, not an object"):
        read_variables(5)
