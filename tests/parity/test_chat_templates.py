"""Chat templates render as live transformers: five real tokenizers, every conversation of the shared data."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
import transformers

from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.schemas.chat.template import TemplateFailed

Messages = list[dict[str, Any]]
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
# Prompts and whole conversations: 2 answers of each of 809 pairs, 300 conversations of unpaired data.
RENDERINGS = 3 * (299 + 300 + 10 + 200) + 2 * 300


def rows(path: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes()).decode()
    return [json.loads(line) for line in text.split("\n") if line] if ".jsonl" in path.name else json.loads(text)


def from_sharegpt(turns: list[dict[str, str]]) -> Messages:
    return [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in turns]


def from_parts(messages: list[dict[str, Any]]) -> Messages:
    return [
        {"role": message["role"], "content": "".join(part["value"] for part in message["content"])}
        for message in messages
    ]


def conversations(data: Path) -> Iterator[tuple[Messages, list[Messages]]]:
    """Each prompt with its answers."""
    for name in ("dpo_en_demo.json.gz", "dpo_zh_demo.json.gz"):
        for row in rows(data / "llamafactory-dpo-demo" / name):
            yield from_sharegpt(row["conversations"]), [from_sharegpt([row[side]]) for side in ("chosen", "rejected")]
    for row in rows(data / "llamafactory-dpo-demo/v1_dpo_demo.jsonl.gz"):
        chosen, rejected = from_parts(row["chosen_messages"]), from_parts(row["rejected_messages"])
        yield chosen[:-1], [chosen[-1:], rejected[-1:]]
    for row in rows(data / "orca-dpo-messages/validation.rows0-199.jsonl.gz"):
        yield row["input"]["messages"], [row["preferred_output"], row["non_preferred_output"]]
    for row in rows(data / "llamafactory-kto-demo/kto_en_demo.json.gz"):
        yield row["messages"][:-1], [row["messages"][-1:]]


@pytest.mark.parametrize("name", ["minimind-chatml", "qwen2", "llama-3", "phi-3-mini", "phi-3-vision-bos"])
def test_every_conversation_is_rendered_as_transformers_renders_it(shared, name):
    folder = shared / "data/tokenizers" / name
    ours, live = load_tokenizer(folder).chat_template, transformers.AutoTokenizer.from_pretrained(folder)
    assert ours is not None

    def ours_or_failed(messages: Messages, generation_prompt: bool) -> str:
        try:
            return ours.render(messages, generation_prompt=generation_prompt)
        except TemplateFailed:
            return "the template raises"

    def live_or_failed(messages: Messages, generation_prompt: bool) -> str:
        try:
            return live.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation_prompt)
        except jinja2.TemplateError:
            return "the template raises"

    compared = raised = 0
    for prompt, answers in conversations(shared / "data"):
        for messages, generation_prompt in [(prompt, True), *(([*prompt, *answer], False) for answer in answers)]:
            expected = live_or_failed(messages, generation_prompt)
            assert ours_or_failed(messages, generation_prompt) == expected
            compared += 1
            raised += expected == "the template raises"
    assert compared == RENDERINGS
    assert raised == 0
