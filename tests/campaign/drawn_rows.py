"""Rows at random: sound ones of every known layout, whose pair is known, and altered ones, which may be anything."""

import copy
import json
import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from oddsmill.pipeline.formats.pairs import PreferencePair
from tests.pipeline.formats.test_layouts import ASK, CASES, OAK, ROCK

LAYOUTS = [name for name in CASES if name != "AlpacaFarm"]  # its prompt is in two columns
SOUND_TEXTS = (
    "plain", "a  b", "a\nb", "tab\there", 'with "quotes"', "back\\slash", "ünïcödé", "日本語の答え", "שלום עולם",
    "\u202eabc\u202c", "😀👩‍👩‍👧", "{{ messages }}{% raw %}", "a\x00b", "\x1b[2J\x1b]52;c;YQ==\x07", "a\u2028b\x85c",
    "1e5", "[1, 2]", '{"a": 1}', "</s><|im_end|><s>", "null", "é" * 40, "A" * 3000, "a,b;c|d", "ﷺ" * 7, "\ufeffb",
)  # fmt: skip
JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**63, 2**64, -(2**70), 10**400, 1e308, float("nan"), float("inf"), -0.0, 0.1, "", " ",
    "\n\t", "\ud800", "a\udfffb", "\x00", [], {}, [[]], [None], [{}], {"": ""}, {"\ud800": 1}, ["a", 1, None],
    "x" * 70_000, "true", "1", "NaN", "2024-01-01", {"role": "user"}, {"content": "q"}, [[["a"]]],
    [{"role": "user", "content": "q"}],
    [{"role": "assistant", "content": None}], [{"from": "human", "value": ""}], {"type": "image_url", "image_url": "x"},
    [{"type": "text", "text": "part"}], [{"type": "image"}], {"bytes": "AAAA", "path": None}, "tie", "model_a", [0, 1],
)  # fmt: skip
ROLES = ("user", "assistant", "system", "developer", "tool", "function_call", "observation", "human", "gpt", "User ",
         "ASSISTANT", "tutor", "", None, 1, ["user"], "\x1b[2J", "bing", "ipython", "model")  # fmt: skip
COLUMNS = (
    "prompt", "chosen", "rejected", "messages", "conversations", "system", "history", "images", "image", "tools",
    "chat_template_kwargs", "documents", "score_chosen", "score_rejected", "completions", "scores", "ranks", "votes",
    "label", "id", "input", "output", "question", "context", "videos", "audio", "margin", "reference", "preferences",
)  # fmt: skip
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


class DrawnRow(NamedTuple):
    """A row, and the pair that it must become; None where that is not known."""

    values: dict[str, Any]
    pair: tuple | None = None


def draw_row(rng: random.Random, layout: str, *, sound: bool) -> DrawnRow:
    """Draws a row of a layout: a sound one, or one that is altered in one place or several."""
    case, texts = CASES[layout], {ASK: f"Which {rng.randrange(10**6)} {_text(rng)}?"}
    texts |= {OAK: f"Oak {rng.randrange(100)} {_text(rng)} oak.", ROCK: f"Rock {_text(rng)} rock."}
    row, pair = (_with_texts(copy.deepcopy(part), texts) for part in (case.row, case.pair))
    if rng.random() < 0.3:
        row = dict(rng.sample([*row.items()], len(row)))  # the order of columns says nothing
    if sound:
        if rng.random() < 0.2:
            row[rng.choice(("note", "meta", "Zusatz"))] = rng.choice(SOUND_TEXTS)
        return DrawnRow(row, pair)
    for _ in range(rng.choice((1, 1, 2, 5))):
        with suppress(RecursionError):  # Python copies no value that is nested so deep
            row = rng.choice(ALTERATIONS)(rng, row)
    return DrawnRow(row)


def pair_of(pair: Any) -> tuple:
    """Returns the texts or messages of a parsed pair, as the tables of the layouts have them."""
    return tuple(pair) if isinstance(pair, PreferencePair) else pair.messages()


def encode(rng: random.Random, values: Any) -> bytes:
    """Writes a row as JSON text on one line; a lone surrogate, which UTF-8 cannot hold, as the escape that it has."""
    separators = rng.choice(((",", ":"), (", ", ": ")))
    try:
        return json.dumps(values, ensure_ascii=rng.random() < 0.5, separators=separators).encode()
    except UnicodeEncodeError:
        return json.dumps(values, separators=separators).encode()


def spoil(rng: random.Random, text: bytes) -> bytes:
    """Makes of a row's text one that is no JSON, or no UTF-8, or has a key twice, or is nested very deep."""
    at = rng.randrange(len(text))
    other = rng.choice(
        (b"\xff", b"\x00", b'"', b"\\", b"}", b"]", b"{", b",", b"\xed\xa0\x80", b"\\ud800", b"\r", b"1e999")
    )
    twice = b'{"prompt":"twice","chosen":"twice",' + text[1:]
    deep = text[:-1] + b', "deep": ' + b"[" * (levels := rng.choice((390, 405, 3000))) + b"]" * levels + b"}"
    return rng.choice((text[:at], text[:at] + other + text[at:], text[:at] + other + text[at + 1 :], twice, deep))


def _text(rng: random.Random) -> str:
    if rng.random() < 0.7:
        return rng.choice(SOUND_TEXTS)
    letters = (
        chr(rng.choice((rng.randrange(32, 127), rng.randrange(0xD800), rng.randrange(0xE000, 0x110000))))
        for _ in range(20)
    )
    return "".join(letters)


def _with_texts(value: Any, texts: dict[str, str]) -> Any:
    """Puts other texts in the place of the tables' own."""
    if isinstance(value, str):
        for old, new in texts.items():
            value = value.replace(old, new)
        return value
    if isinstance(value, dict):
        return {key: _with_texts(part, texts) for key, part in value.items()}
    return type(value)(_with_texts(part, texts) for part in value) if isinstance(value, list | tuple) else value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yields every container in a value, with each of its keys."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(part, dict | list):
            yield from _places(part)


def _place(rng: random.Random, row: Any) -> tuple[Any, Any]:
    places = [*_places(row)]
    if places:
        return rng.choice(places)
    row["prompt"] = None
    return row, "prompt"


def _put_junk(rng: random.Random, row: Any) -> Any:
    holder, key = _place(rng, row)
    holder[key] = copy.deepcopy(rng.choice(JUNK))
    return row


def _delete(rng: random.Random, row: Any) -> Any:
    holder, key = _place(rng, row)
    del holder[key]
    return row


def _rename(rng: random.Random, row: Any) -> Any:
    holder, key = _place(rng, row)
    if isinstance(holder, dict):
        holder[rng.choice((*COLUMNS, str(key).upper(), f"{key} ", "", "\ud800", "a.b", "0", "role", "content"))] = (
            holder.pop(key)
        )
    return row


def _swap(rng: random.Random, row: Any) -> Any:
    (one, first), (other, second) = _place(rng, row), _place(rng, row)
    value = copy.deepcopy(other[second])
    other[second] = copy.deepcopy(one[first])  # copies: one may be in the other
    with_key = isinstance(one, dict) or first < len(one)
    if with_key:
        one[first] = value
    return row


def _wrap(rng: random.Random, row: Any) -> Any:
    holder, key = _place(rng, row)
    value = holder[key]
    wrapped = ([value], {"content": value}, {"text": value}, [value, value], json.dumps(value), str(value), [[value]])
    holder[key] = copy.deepcopy(rng.choice(wrapped))
    return row


def _nest(rng: random.Random, row: Any) -> Any:
    holder, key = _place(rng, row)
    for _ in range(rng.choice((5, 60, 190))):
        holder[key] = [holder[key]] if rng.random() < 0.5 else {"content": holder[key]}
    return row


def _add_column(rng: random.Random, row: Any) -> Any:
    tools = ([TOOL], json.dumps([TOOL]), [{}], [5], "[", {"f": TOOL}, [TOOL] * 3)
    row[rng.choice(COLUMNS)] = copy.deepcopy(rng.choice((*JUNK, *tools)))
    return row


def _alter_turn(rng: random.Random, row: Any) -> Any:
    """Alters a list of messages: roles, orders, calls of tools, ids that lead in a circle, parts, reasoning."""
    turns = [
        part
        for holder, key in _places(row)
        if isinstance(part := holder[key], list) and part and isinstance(part[0], dict)
    ]
    if not turns:
        return _add_column(rng, row)
    messages = rng.choice(turns)
    at = rng.randrange(len(messages))
    message = messages[at] if isinstance(messages[at], dict) else {}
    role = "from" if "from" in message else "role"
    nameless, bare = CALL | {"function": {"name": None, "arguments": "{"}}, {"name": "f", "arguments": "{}"}
    calls = rng.choice(
        ([CALL], [CALL, CALL], [], [{}], [5], "[]", {"function": CALL}, [CALL | {"id": None}], [nameless], [bare])
    )
    part = {"type": rng.choice(("text", "image", None)), "text": rng.choice(JUNK)}
    changes: tuple[dict[str, Any], ...] = (
        {role: rng.choice(ROLES)}, {"tool_calls": calls}, {"tool_call_id": rng.choice(("1", 1, None, [], "x"))},
        {"reasoning_content": rng.choice(JUNK)}, {"content": rng.choice(JUNK)}, {"name": rng.choice(JUNK)},
        {"content": [{"type": "text", "text": "a"}, part]},
        {"weight": 0}, {"thinking": "hm"}, {"role": "tool", "content": {"a": [1]}}, {"from": "human", "value": "both"},
    )  # fmt: skip
    messages[at] = copy.deepcopy(message | rng.choice(changes))
    action = rng.random()
    if action < 0.2:
        messages.insert(rng.randrange(len(messages) + 1), copy.deepcopy(rng.choice(messages)))
    elif action < 0.3:
        rng.shuffle(messages)
    elif action < 0.4:
        messages.insert(at, {role: "tool", "content": "42", "tool_call_id": "1"})
    elif action < 0.45:
        messages *= rng.choice((0, 20))
    return row


def _blank(rng: random.Random, row: Any) -> Any:
    return rng.choice(
        (
            {},
            dict.fromkeys(row),
            dict.fromkeys(row, ""),
            {key: row[next(iter(row))] for key in row} if row else {},
        )
    )


ALTERATIONS = (
    _put_junk,
    _put_junk,
    _delete,
    _rename,
    _swap,
    _wrap,
    _nest,
    _add_column,
    _alter_turn,
    _alter_turn,
    _blank,
)
