"""Situations that people report in public trackers, each on an invented row: what the model reads, or why it does not.

docs/log/2026-11-28_real_data.md lists them with their sources.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from oddsmill.pipeline import SourceConfig
from oddsmill.pipeline.config import DatasetSettings
from oddsmill.pipeline.formats.detection import resolve_source
from oddsmill.pipeline.formats.parsing import parse_row
from oddsmill.pipeline.input.parts import Input, read_in_order
from oddsmill.pipeline.input.rows import make_row
from oddsmill.pipeline.tokens.rendering import render_pair
from oddsmill.schemas.chat.template import ChatTemplate
from oddsmill.schemas.drops import Dropped, Origin
from oddsmill.schemas.errors import Refused

CHATML = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}</>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


class Situation(NamedTuple):
    """A row as somebody has it, and what must come of it.

    Attributes:
      source: the thread.
      expected: the rendered prompt, chosen and rejected; or a part of the reason for which there are none.
      settings: of the source.
      options: of the run.
    """

    source: str
    row: dict[str, Any]
    expected: tuple[str, str, str] | str
    template: str = CHATML
    settings: dict[str, Any] | None = None
    options: dict[str, Any] | None = None


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text} | more


def call(arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "arguments": arguments}}


PLAIN = ("<user>Name a tree.</><assistant>", "Oak.</>", "Rock.</>")
TWO_TURNS = "<user>Hi</><assistant>Hello.</><user>Name a tree.</><assistant>"
# What DeepSeek's templates do with the arguments of a call: they are joined as text.
JOINED = CHATML.replace("{{ c.function.arguments | tojson }}", "{{ '' + c.function.arguments }}")
ITEMS = CHATML.replace(
    "{{ c.function.arguments | tojson }}", "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
)
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + CHATML
)
# Qwen3's last answer begins with an empty block of thought, and the prompt too where thinking is off.
EMPTY_THOUGHT = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ m.content }}</>{% endfor %}{% if add_generation_prompt %}<assistant>"
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)
WHOLE = {
    "chosen": [user("Hi"), assistant("Hello."), user("Name a tree."), assistant("Oak.")],
    "rejected": [user("Hi"), assistant("Hello."), user("Name a tree."), assistant("Rock.")],
}
SIDES = {"chosen": [assistant("Oak.")], "rejected": [assistant("Rock.")]}

SITUATIONS = [
    Situation(
        "hiyouga/LlamaFactory#4720: answers are objects of an answer, a score and actions",
        {"question": "Name a tree.", "pos": {"answer": "Oak.", "score": 1.0}, "neg": {"answer": "Rock.", "score": 0}},
        ("Name a tree.", "Oak.", "Rock."),
        settings={"fields": {"prompt": "question", "chosen": "pos.answer", "rejected": "neg.answer"}},
    ),
    Situation(
        "hiyouga/LlamaFactory#5455: instruction, input, chosen, rejected",
        {"instruction": "Name a tree.", "input": "(A) 橡树 (B) 石头", "chosen": "A", "rejected": "B"},
        ("Name a tree.\n\n(A) 橡树 (B) 石头", "A", "B"),
    ),
    Situation(
        "hiyouga/LlamaFactory#4108: instruction, chosen, rejected and no input",
        {"instruction": "Name a tree.", "chosen": "Oak.", "rejected": "Rock."},
        ("Name a tree.", "Oak.", "Rock."),
    ),
    Situation(
        "hiyouga/LlamaFactory#3354: whole conversations of several turns", WHOLE, (TWO_TURNS, "Oak.</>", "Rock.</>")
    ),
    Situation(
        "hiyouga/LlamaFactory#3774: a conversation without a second answer",
        {"messages": [user("Name a tree."), assistant("Oak.")]},
        "none of the first 1 rows reads as",
    ),
    Situation(
        "hiyouga/LlamaFactory#6549: sides of several turns that part early",
        {
            "prompt": [user("Hi")],
            "chosen": [assistant("Hello."), user("Name a tree."), assistant("Oak.")],
            "rejected": [assistant("What?"), user("Name a tree."), assistant("Rock.")],
        },
        (
            "<user>Hi</><assistant>",
            "Hello.</><user>Name a tree.</><assistant>Oak.</>",
            "What?</><user>Name a tree.</><assistant>Rock.</>",
        ),
    ),
    Situation(
        "kakao/diatool-dpo#2: each side is JSON text of an object of messages and tools",
        {
            "chosen": json.dumps({"messages": [user("Name a tree."), assistant("Oak.")], "tools": []}),
            "rejected": json.dumps({"messages": [user("Name a tree."), assistant("Rock.")], "tools": []}),
        },
        PLAIN,
    ),
    Situation(
        "kakao/diatool-dpo#2: the same as objects, with their tools",
        {name: {"messages": [user("Name a tree."), *side], "tools": [{"name": "f"}]} for name, side in SIDES.items()},
        ("[f]" + PLAIN[0], *PLAIN[1:]),
        template="{% for t in tools or [] %}[{{ t.name }}]{% endfor %}" + CHATML,
    ),
    Situation(
        "kakao/diatool-dpo#2: the same, and the tools of the two sides differ",
        {name: {"messages": [user("Name a tree."), *side], "tools": [{"name": name}]} for name, side in SIDES.items()},
        "wrong_type: chosen and rejected have different tools",
        settings={"format": "messages"},
    ),
    Situation(
        "OpenRLHF/OpenRLHF#909: a prompt of messages and its answers", {"prompt": [user("Name a tree.")]} | SIDES, PLAIN
    ),
    Situation(
        "OpenRLHF/OpenRLHF#909: the same without a prompt, whole conversations",
        {"chosen": [user("Name a tree."), assistant("Oak.")], "rejected": [user("Name a tree."), assistant("Rock.")]},
        PLAIN,
    ),
    Situation(
        "OpenRLHF/OpenRLHF#479: one answer and its reward a row",
        {"input": "Name a tree.", "output": "Oak.", "reward": 0.5},
        "none of the first 1 rows reads as",
    ),
    Situation(
        "shibing624/MedicalGPT#358: question, response_chosen, response_rejected",
        {"question": "Name a tree.", "response_chosen": "Oak.", "response_rejected": "Rock."},
        ("Name a tree.", "Oak.", "Rock."),
    ),
    Situation(
        "axolotl-ai-cloud/axolotl#2647: system, user and assistant in each side",
        {
            name: [{"role": "system", "content": "Be brief."}, user("Name a tree."), *side]
            for name, side in SIDES.items()
        },
        ("<system>Be brief.</>" + PLAIN[0], *PLAIN[1:]),
    ),
    Situation(
        "axolotl-ai-cloud/axolotl#222: a system column beside instruction and answers",
        {"system": "Be brief.", "instruction": "Name a tree.", "input": "", "chosen": "Oak.", "rejected": "Rock."},
        ("<system>Be brief.</>" + PLAIN[0], *PLAIN[1:]),
        options={"chat": True},
    ),
    Situation(
        "huggingface/trl#1541: a prompt as text beside whole conversations",
        {"prompt": "Name a tree."} | WHOLE,
        (TWO_TURNS, "Oak.</>", "Rock.</>"),
    ),
    Situation(
        "huggingface/trl#2553: sides that are the same",
        {"prompt": "Name a tree.", "chosen": "Oak.", "rejected": "Oak."},
        "identical_answers",
        settings={"format": "triple"},
    ),
    Situation(
        "modelscope/ms-swift#7314: the rejected answer as a list of one message",
        {"messages": [user("Name a tree."), assistant("Oak.")], "rejected_response": [assistant("Rock.")]},
        PLAIN,
    ),
    Situation(
        "modelscope/ms-swift#7314: several rejected answers in a list",
        {"messages": [user("Name a tree."), assistant("Oak.")], "rejected_response": ["Rock.", "Stone."]},
        "wrong_type",
        settings={
            "format": "messages",
            "fields": {"prompt": "messages", "chosen": "messages", "rejected": "rejected_response"},
        },
    ),
    Situation(
        "modelscope/ms-swift#6830: id, system, instruction, input, chosen, rejected",
        {
            "id": "1",
            "system": "Be brief.",
            "instruction": "Name a tree.",
            "input": "Now.",
            "chosen": "Oak.",
            "rejected": "Rock.",
        },
        ("<system>Be brief.</><user>Name a tree.\n\nNow.</><assistant>", "Oak.</>", "Rock.</>"),
        options={"chat": True},
    ),
    Situation(
        "modelscope/ms-swift#2968: several turns and the rejected answer to the last",
        {"messages": WHOLE["chosen"], "rejected_response": "Rock."},
        (TWO_TURNS, "Oak.</>", "Rock.</>"),
    ),
    Situation(
        "modelscope/ms-swift#7184: turns of tool_call and tool_response",
        {
            "messages": [
                user("Hi"),
                {"role": "tool_call", "content": '{"name": "f", "arguments": {"a": 1}}'},
                {"role": "tool_response", "content": "4"},
                assistant("Oak."),
            ],
            "rejected_response": "Rock.",
        },
        ('<user>Hi</><assistant>[f {"a": 1}]</><tool>4</><assistant>', "Oak.</>", "Rock.</>"),
    ),
    Situation(
        "modelscope/ms-swift#5878: rejected_messages beside messages",
        {"messages": WHOLE["chosen"], "rejected_messages": WHOLE["rejected"]},
        (TWO_TURNS, "Oak.</>", "Rock.</>"),
    ),
    Situation(
        "modelscope/ms-swift#6763: thinking is off, the prompt holds the empty block",
        {"prompt": [user("Name a tree.")]} | SIDES,
        ("<user>Name a tree.</><assistant><think></think>", "Oak.</>", "Rock.</>"),
        template=EMPTY_THOUGHT,
        options={"chat_template_kwargs": {"enable_thinking": False}},
    ),
    Situation(
        "QwenLM/Qwen3#1487: the template gives the last answer an empty block of thought",
        {"prompt": [user("Name a tree.")]} | SIDES,
        ("<user>Name a tree.</><assistant>", "<think></think>Oak.</>", "<think></think>Rock.</>"),
        template=EMPTY_THOUGHT,
    ),
    Situation(
        "oumi-ai/oumi#2599: arguments as JSON text, a template that takes objects",
        {
            "prompt": [user("Hi")],
            "chosen": [assistant(None, tool_calls=[call('{"a": 1}')])],
            "rejected": [assistant("No.")],
        },
        ("<user>Hi</><assistant>", '[f {"a": 1}]</>', "No.</>"),
    ),
    Situation(
        "oumi-ai/oumi#2603: the same, a template that joins text",
        {
            "prompt": [user("Hi")],
            "chosen": [assistant("", tool_calls=[call('{"a": 1}')])],
            "rejected": [assistant("No.")],
        },
        ("<user>Hi</><assistant>", '[f {"a": 1}]</>', "No.</>"),
        template=JOINED,
    ),
    Situation(
        "huggingface/transformers#45419: arguments as an object, a template that joins text",
        {
            "prompt": [user("Hi")],
            "chosen": [assistant("", tool_calls=[call({"a": 1})])],
            "rejected": [assistant("No.")],
        },
        ("<user>Hi</><assistant>", '[f {"a": 1}]</>', "No.</>"),
        template=JOINED,
    ),
    Situation(
        "QwenLM/Qwen3-Coder#444: arguments as JSON text, a template that takes their items; name null",
        {
            "prompt": [{**user("Hi"), "name": None}],
            "chosen": [assistant("", tool_calls=[call('{"a": 3}')])],
            "rejected": [assistant("No.")],
        },
        ("<user>Hi</><assistant>", "[f a=3]</>", "No.</>"),
        template=ITEMS,
    ),
    Situation(
        "huggingface/datasets#6106: scores as text",
        {"prompt": "Name a tree.", "completions": ["Rock.", "Oak."], "scores": ["-0.2253", "1e0"]},
        ("Name a tree.", "Oak.", "Rock."),
    ),
    Situation(
        "NVlabs/Tool-N1#3: a prompt column of nulls beside whole conversations",
        {"prompt": None} | WHOLE,
        (TWO_TURNS, "Oak.</>", "Rock.</>"),
    ),
    Situation(
        "allenai/OLMo-core#849: a template that refuses system turns",
        {"prompt": [{"role": "system", "content": "Be brief."}, user("Name a tree.")]} | SIDES,
        "template_error: System role not supported",
        template=NO_SYSTEM,
    ),
    Situation(
        "FasterDecoding/Medusa#102: two turns of the user, a template in which roles alternate",
        {"prompt": [user("Hi"), user("Name a tree.")]} | SIDES,
        "template_error: roles must alternate",
        template=ALTERNATING,
    ),
    Situation(
        "huggingface/alignment-handbook#116: the header of the answer belongs to the prompt",
        {"prompt": "Name a tree."} | SIDES,
        PLAIN,
    ),
    Situation(
        "lmarena/p2l#3: an arena's conversations of which both are bad",
        {
            "model_a": "m",
            "model_b": "n",
            "winner": "tie (bothbad)",
            "conversation_a": [user("Hi"), assistant("A")],
            "conversation_b": [user("Hi"), assistant("B")],
        },
        "tie",
    ),
    Situation(
        "oumi-ai/oumi#2636: the prompt under messages beside answers of messages",
        {"messages": [user("Name a tree.")]} | SIDES,
        PLAIN,
    ),
]


# Files whose columns vary from row to row, which a reader that infers one type for a column refuses or alters.
VARYING = [
    (
        "huggingface/datasets#7092: a column of empty lists, then of objects",
        [
            {"prompt": "a", "chosen": "b", "rejected": "c", "inputs": []},
            {"prompt": "d", "chosen": "e", "rejected": "f", "inputs": [{"id": 1}]},
        ],
    ),
    (
        "huggingface/datasets#6460: lists of numbers and texts together",
        [
            {"prompt": "a", "chosen": "b", "rejected": "c", "ner": [[0, 4, "tree"]]},
            {"prompt": "d", "chosen": "e", "rejected": "f", "ner": [["x", None]]},
        ],
    ),
    (
        "axolotl-ai-cloud/axolotl#3136: arguments of a call that are a text here and a number there",
        [
            {
                "prompt": [user("a")],
                "chosen": [assistant("", tool_calls=[call({"time": time})])],
                "rejected": [assistant("b")],
            }
            for time in ("2025-08-01", 1690876800)
        ],
    ),
    (
        "huggingface/datasets#7222: a column of nulls, then of texts",
        [
            {"prompt": "a", "chosen": "b", "rejected": "c", "system": None},
            {"prompt": "d", "chosen": "e", "rejected": "f", "system": ""},
        ],
    ),
]


def outcome(situation: Situation) -> tuple[str, str, str] | str:
    """Returns what the pipeline makes of a row that stands alone in its file."""
    raw = make_row(Origin(0, 0), json.dumps(situation.row).encode(), None)
    config = DatasetSettings(
        source=SourceConfig(path="rows.jsonl", **situation.settings or {}),
        tokenizer="unused",
        **situation.options or {},
    )
    try:
        source = resolve_source([raw], source=config.source)
        (pair,) = parse_row(raw, source=source, chat=config.chat)
        return tuple(render_pair(pair, ChatTemplate(situation.template, {}), config).texts)
    except (Dropped, Refused) as error:
        return str(error)


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.source)
def test_a_row_becomes_what_its_author_means_or_says_why_not(situation: Situation):
    found = outcome(situation)
    if isinstance(situation.expected, str):
        assert situation.expected in found
    else:
        assert found == situation.expected


@pytest.mark.parametrize(("source", "rows"), VARYING, ids=[source for source, _ in VARYING])
@pytest.mark.parametrize("layout", ["lines", "array"])
def test_columns_may_vary_from_row_to_row(tmp_path: Path, source: str, rows: list[dict[str, Any]], layout: str):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows) if layout == "array" else "\n".join(map(json.dumps, rows)))
    found = list(read_in_order([Input(path=str(path), files=[str(path)])]))
    assert [row.values() for row in found] == rows
    resolved = resolve_source(found, source=SourceConfig(path=str(path)))
    assert [len(parse_row(row, source=resolved)) for row in found] == [1, 1]
