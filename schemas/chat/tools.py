"""Tools, tool calls and variables of a template: every form that rows have becomes the one that templates read.

A null key is an absent key, at every depth: Arrow adds null keys to give the objects of a column the same keys.
"""

import json
from collections.abc import Mapping
from typing import Any

from oddsmill.schemas.drops import Dropped, DropReason

# The values of these keys of a JSON schema are literals: a null in them is a value.
_LITERALS = frozenset({"default", "const", "enum", "examples", "example"})
# The keys of these objects of a JSON schema are names that somebody chose; `default` may be one of them.
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_ENCODINGS = 3  # how often a value may have been encoded as JSON text


def without_nulls(value: Any) -> Any:
    """Leaves out the null keys of a value, at every depth; null members of lists stay."""
    if isinstance(value, dict):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    if isinstance(value, list):
        return [without_nulls(part) for part in value]
    return value


def read_variables(variables: Any, tools: Any = None) -> dict[str, Any]:
    """Reads what a row gives to the template beside its messages.

    Args:
      variables: the row's `chat_template_kwargs`: an object, JSON text of one, or None.
      tools: the row's tools, in a form of `read_tools`; they win over those among the variables.

    Raises:
      Dropped: one of them has another form.
    """
    found = _decode("chat_template_kwargs", variables)
    if found is None:
        found = {}
    if not isinstance(found, dict):
        raise Dropped(DropReason.WRONG_TYPE, f"chat_template_kwargs is {kind_of(found)}, not an object")
    schemas = read_tools(found.get("tools") if tools is None else tools)
    found = without_nulls({key: value for key, value in found.items() if key != "tools"})
    return found | {"tools": schemas} if schemas else found


def read_tools(value: Any) -> list[dict[str, Any]]:
    """Reads tools as a list of JSON schemas; it is empty where there are none.

    Args:
      value: a list of schemas, one schema, JSON text of these (encoded twice, too), a list of JSON texts, or None. A
        function without its wrapper stays so, as in transformers.

    Raises:
      Dropped: it is something else.
    """
    return [_read_tool(_decode("a tool", tool)) for tool in _members("tools", value, "schemas")]


def read_calls(value: Any) -> list[dict[str, Any]]:
    """Reads the calls of a turn as a list of `{"type": "function", "function": {"name": …, "arguments": {…}}}`.

    Args:
      value: a list of calls, one call, JSON text of these, or None. Arguments may be JSON text, as OpenAI's interface
        has them; a call of name and arguments without a wrapper gets one.

    Raises:
      Dropped: it is something else.
    """
    return [_read_call(_decode("a call of a tool", call)) for call in _members("tool_calls", value, "calls")]


def read_arguments(value: Any) -> Any:
    """Reads the arguments of a call as an object; a text that is no JSON of one stays a text.

    Raises:
      Dropped: they are neither an object, a list nor a text.
    """
    arguments = value
    for _ in range(_ENCODINGS):
        if not isinstance(arguments, str):
            break
        try:
            arguments = json.loads(arguments) if arguments.strip() else None
        except (ValueError, RecursionError):
            return value
    if arguments is None:
        return {}
    if isinstance(value, str) and not isinstance(arguments, dict):
        return value
    if not isinstance(arguments, dict | list):
        problem = f"the arguments of a call are {kind_of(arguments)}, not an object"
        raise Dropped(DropReason.WRONG_TYPE, problem)
    return without_nulls(arguments)


def kind_of(value: Any) -> str:
    """Names the kind of a value for a message."""
    return "null" if value is None else type(value).__name__


def _members(name: str, value: Any, of: str) -> list[Any]:
    """Returns the members of a list, or one object as the only one, or none, each also as JSON text."""
    value = _decode(name, value)
    if not isinstance(value, list | dict | None):
        raise Dropped(DropReason.WRONG_TYPE, f"{name} is {kind_of(value)}, not a list of {of}")
    return [value] if isinstance(value, dict) else value or []


def _decode(name: str, value: Any) -> Any:
    """Returns the value of a JSON text, which may have been encoded several times; None of an empty text."""
    for _ in range(_ENCODINGS):
        if not isinstance(value, str):
            break
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError) as error:
            problem = (
                "a Python repr; write JSON" if value.lstrip().startswith(("[{'", "{'")) else f"broken JSON ({error})"
            )
            raise Dropped(DropReason.WRONG_TYPE, f"{name}: {problem}") from None
    return value


def _read_tool(tool: Any) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise Dropped(DropReason.WRONG_TYPE, f"a tool is {kind_of(tool)}, not a JSON schema")
    # A null literal is a value, unless Arrow has written nulls here: then it stays where its schema admits null.
    schema: dict[str, Any] = _clean_schema(tool, arrow=_has_null_keys(tool))
    if not any(isinstance(schema.get(key), str | dict) for key in ("function", "name", "type")):
        raise Dropped(DropReason.WRONG_TYPE, f"a tool is an object of {', '.join(schema) or 'nothing'}, without a name")
    for key in ("function", "parameters"):
        if isinstance(schema.get(key), str):
            schema[key] = _clean_schema(_decode(f"{key} of a tool", schema[key]), arrow=False)
    if isinstance(function := schema.get("function"), dict) and isinstance(function.get("parameters"), str):
        parameters = _clean_schema(_decode("parameters of a tool", function["parameters"]), arrow=False)
        schema["function"] = function | {"parameters": parameters}
    return schema


def _read_call(call: Any) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise Dropped(DropReason.WRONG_TYPE, f"a call of a tool is {kind_of(call)}, not an object")
    call = {key: part for key, part in call.items() if part is not None}
    function = _decode("a call of a tool", call.get("function"))
    if isinstance(function, dict) and function.get("name"):
        function = {key: part for key, part in function.items() if part is not None}
    elif isinstance(call.get("name"), str) and function is None:
        given = next((name for name in ("arguments", "parameters") if name in call), "arguments")
        function = {"name": call.pop("name"), "arguments": call.pop(given, None)}
        call = {"type": "function"} | call
    else:
        raise Dropped(DropReason.WRONG_TYPE, f"a call of a tool has no name, only {', '.join(call) or 'nothing'}")
    return without_nulls(call) | {"function": function | {"arguments": read_arguments(function.get("arguments"))}}


def _clean_schema(value: Any, *, arrow: bool, named: bool = False) -> Any:
    """Leaves out the null keys of a JSON schema, but not those inside its literals.

    Args:
      arrow: null literals stay only where the schema admits null.
      named: the keys of this object are names, and its values schemas.
    """
    if isinstance(value, list):
        return [_clean_schema(part, arrow=arrow) for part in value]
    if not isinstance(value, dict):
        return value
    clean = {}
    for key, part in value.items():
        is_literal = not named and key in _LITERALS
        if part is None and not (is_literal and key in ("default", "const") and (not arrow or _admits_null(value))):
            continue
        clean[key] = part if is_literal else _clean_schema(part, arrow=arrow, named=not named and key in _NAMED)
    return clean


def _admits_null(schema: Mapping[str, Any]) -> bool:
    kinds = schema.get("type")
    if kinds == "null" or (isinstance(kinds, list) and "null" in kinds) or schema.get("nullable") is True:
        return True
    members = schema.get("enum")
    if isinstance(members, list) and None in members:
        return True
    choices = [*(schema.get("anyOf") or []), *(schema.get("oneOf") or [])]
    return any(isinstance(choice, dict) and _admits_null(choice) for choice in choices)


def _has_null_keys(value: Any, *, named: bool = False) -> bool:
    """Says whether a JSON schema has null keys that are no literals."""
    if isinstance(value, list):
        return any(map(_has_null_keys, value))
    if not isinstance(value, dict):
        return False
    for key, part in value.items():
        if not named and key in _LITERALS:
            continue
        if part is None or _has_null_keys(part, named=not named and key in _NAMED):
            return True
    return False


def arguments_of(call: Any) -> Any:
    """Returns the arguments of a call; None where it has none."""
    function = call.get("function", call) if isinstance(call, dict) else None
    return function.get("arguments") if isinstance(function, dict) else None


def with_argument_texts(message: dict[str, Any]) -> dict[str, Any]:
    """Returns a message whose calls have their arguments as JSON text."""
    calls = [
        call | {"function": call["function"] | {"arguments": json.dumps(arguments, ensure_ascii=False)}}
        if isinstance(arguments := arguments_of(call), dict) and "function" in call
        else call
        for call in message.get("tool_calls") or []
    ]
    return message | {"tool_calls": calls} if calls else message
