"""Prompts of a file become token ids, and the ids of answers their texts."""

import json

import pytest

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.formats.parsing import parse_row
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.pipeline.tokens.rendering import render_pair
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.drops import Origin
from oddsmill.schemas.errors import Refused
from oddsmill.train.generation.prompts import Prompt, answer_text, encode_prompts, read_prompt, read_prompts

USER = {"role": "user", "content": "How do I bake bread?"}
TEMPLATE = "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{{ mood }}"


@pytest.fixture(scope="module")
def folder(make_tokenizer, tmp_path_factory):
    """A tokenizer with BOS, EOS and a template."""
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"), chat_template=TEMPLATE)


def encoded(tokenizer, prompts, chat="auto", variables=None, vocab_size=10_000):
    return encode_prompts(prompts, tokenizer, chat=chat, date=None, variables=variables or {}, vocab_size=vocab_size)


def test_rows_are_texts_or_messages_and_name_their_place(write_rows):
    rows = [{"prompt": "Hi"}, b" ", {"prompt": [USER]}, {"messages": [USER], "tools": [{"name": "oven"}], "other": 1}]
    path = write_rows("prompts.jsonl", rows)
    assert list(read_prompts(path)) == [
        Prompt(f"{path}:0", "Hi"),
        Prompt(f"{path}:2", [USER]),
        Prompt(f"{path}:3", [USER], {"tools": [{"name": "oven"}]}),
    ]


def test_bos_stands_once_whether_the_text_begins_with_it_or_not(folder):
    contents = ("Hi", "<s>Hi", [USER])
    plain, marked, message = encoded(Tokenizer(folder), [Prompt("", content) for content in contents])
    assert plain.ids == marked.ids
    for prompt in (plain, message):
        assert prompt.ids[0] == 1 and prompt.ids.count(1) == 1


def test_a_dialogue_begins_with_what_its_template_writes(make_tokenizer, tmp_path):
    tokenizer = Tokenizer(make_tokenizer(tmp_path, chat_template="{{ messages[0].content }}"))
    message, text = encoded(tokenizer, [Prompt("", [USER]), Prompt("", USER["content"])])
    assert [1, *message.ids] == text.ids
    as_trl = {"chat": "auto", "date": None, "variables": {}, "vocab_size": 10_000, "bos_in_chat": True}
    assert encode_prompts([Prompt("", [USER])], tokenizer, **as_trl)[0].ids == text.ids
    assert encoded(Tokenizer(tmp_path, add_bos=False), [Prompt("", USER["content"])])[0].ids == message.ids


def test_a_text_is_a_users_message_only_where_that_is_asked_for(folder):
    texts = {chat: encoded(Tokenizer(folder), [Prompt("", "Hi")], chat)[0].text for chat in (True, False, "auto")}
    assert texts == {True: "<s><|user|>Hi", False: "Hi", "auto": "Hi"}
    with pytest.raises(Refused, match="f:3: the row holds messages; --chat=false takes texts alone"):
        encoded(Tokenizer(folder), [Prompt("f:3", [USER])], False)


def test_a_rows_own_variables_win(folder):
    prompts = [Prompt("", [USER]), Prompt("", [USER], {"mood": "gladly"})]
    found = encoded(Tokenizer(folder), prompts, variables={"mood": "sadly"})
    assert [prompt.text.rpartition("?")[2] for prompt in found] == ["sadly", "gladly"]


def test_a_template_sees_the_day_and_the_rows_tools(folder, write_rows):
    template = "{{ strftime_now('%Y') | length }}{{ tools[0].name if tools else '' }}{{ messages[0].content }}"
    tokenizer = Tokenizer(folder, chat_template=template)
    rows = [{"messages": [USER], "tools": [{"name": "oven"}]}, {"prompt": [{"role": "user", "content": "Hi"}]}]
    found = encoded(tokenizer, read_prompts(write_rows("a", rows)))
    assert [prompt.text for prompt in found] == ["4ovenHow do I bake bread?", "4Hi"]


def test_prompts_without_a_token_or_with_one_that_the_model_lacks_are_refused(folder):
    tokenizer = Tokenizer(folder)
    (prompt,) = encoded(tokenizer, [Prompt("f:0", "Hello")])
    assert encoded(tokenizer, [Prompt("f:0", "Hello")], vocab_size=max(prompt.ids) + 1) == [prompt]
    with pytest.raises(Refused, match=f"f:0: token {max(prompt.ids)} is not in the model's vocabulary"):
        encoded(tokenizer, [Prompt("f:0", "Hello")], vocab_size=max(prompt.ids))


def test_an_answer_goes_on_from_its_prompt_with_its_leading_space(shared):
    tokenizer = Tokenizer(shared / "golden" / "tokenizers" / "spmish-bos")
    prompt, whole = (tokenizer.with_bos(tokenizer.encode(text)) for text in ("What is", "What is the price"))
    answer = whole[len(prompt) :]
    assert tokenizer.decode(answer, skip_special_tokens=True) == "the price"  # alone, the tokenizer drops the space
    assert answer_text(tokenizer, prompt, answer) == " the price"


def test_answers_end_where_real_templates_end_a_turn(shared):
    ends = {"data/tokenizers/llama-3": {128009}, "data/tokenizers/phi-3-mini": {32000, 32007}}
    ends |= {"golden/tokenizers/llama3ish-bos": {1, 4}, "golden/tokenizers/gpt2ish-boseqeos": {0}}
    for name, expected in ends.items():
        assert Tokenizer(shared / name).answer_ends == expected


SHOWS_ALL = (
    "{{ tools | tojson }}{{ effort }}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content or '' }}{{ m.reasoning_content }}"
    "{% for c in m.tool_calls or [] %}{{ c | tojson }}{% endfor %}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SCHEMA = {"type": "function", "function": {"name": "oven", "parameters": {"type": "object", "properties": {"c": None}}}}
CALL = {"type": "function", "function": {"name": "oven", "arguments": '{"c": 220, "fan": null}'}}
TURNS = [
    {"role": "developer", "content": "Be brief."},
    {"from": "human", "value": "Heat it.", "id": 7},
    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning": "It is cold.", "name": None},
    {"role": "ipython", "content": [{"type": "text", "text": "220 C"}]},
]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [USER]},
        {"prompt": USER},
        {"prompt": json.dumps([USER])},
        {"prompt": TURNS},
        {"prompt": [USER, {"role": "assistant", "content": "You begin"}]},
        {"prompt": [USER], "system": "Be brief.", "history": [["Hi", "Hello."]], "images": []},
        {"messages": TURNS, "tools": [SCHEMA]},
        {"conversations": TURNS, "tools": json.dumps([SCHEMA]), "chat_template_kwargs": {"effort": None}},
        {"prompt": [{"from": "human", "value": "q"}], "tools": [json.dumps(SCHEMA)]},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "q"}, "!"]}], "tools": SCHEMA},
        {"prompt": [USER], "tools": [SCHEMA["function"]], "chat_template_kwargs": '{"effort": "high"}'},
        {
            "prompt": [
                {"from": "human", "value": "q"},
                {"from": "function_call", "value": '{"name": "oven", "arguments": {}}'},
                {"from": "observation", "value": "220 C"},
            ],
        },
    ],
)
def test_generation_reads_the_very_prompt_that_the_pipeline_made_of_the_row(folder, row):
    tokenizer = Tokenizer(folder, chat_template=SHOWS_ALL)
    answers = {"chosen": [{"role": "assistant", "content": "yes"}], "rejected": [{"from": "gpt", "value": "no"}]}
    raw = RawRow(Origin(0, 0), json.dumps(row | answers).encode())
    (pair,) = parse_row(raw, source=SourceConfig(path="a", format="messages"))
    config = PreprocessConfig(source=SourceConfig(path="a"), tokenizer="t", output="o")
    trained = render_pair(pair, tokenizer.chat_template, config).texts.prompt
    assert (
        trained.endswith(("<|assistant|>", "You begin"))
        and "None" not in trained
        and "null" not in trained.partition("<|")[2]
    )
    (prompt,) = encoded(tokenizer, [read_prompt(row, "f:0")])
    assert prompt.text == trained


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q"},
        {"prompt": "q", "system": "Be brief.", "history": '[["Hi", "Hello."]]', "image": None},
        {"prompt": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: q\n\nAssistant:", "system_prompt": "Be brief."},
    ],
)
def test_texts_are_the_pipelines_with_the_chat_template_and_without(folder, row, chat):
    tokenizer = Tokenizer(folder, chat_template=SHOWS_ALL)
    raw = RawRow(Origin(0, 0), json.dumps(row | {"chosen": "yes", "rejected": "no"}).encode())
    (pair,) = parse_row(raw, source=SourceConfig(path="a", format="triple"), chat=chat)
    config = PreprocessConfig(source=SourceConfig(path="a"), tokenizer="t", output="o")
    (prompt,) = encoded(tokenizer, [read_prompt(row, "f:0")], chat)
    assert prompt.text == render_pair(pair, tokenizer.chat_template, config).texts.prompt
    with pytest.raises(Refused, match=r"f:0: 'images' is not empty, and only texts are read$"):
        read_prompt(row | {"images": ["a.png"]}, "f:0")
