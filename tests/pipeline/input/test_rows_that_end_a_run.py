"""Whatever a row does, it becomes a drop with its reason, counted, and the rows around it become pairs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.input.rows import make_row
from oddsmill.pipeline.tokens import text_rules
from oddsmill.pipeline.tokens.tokenization import tokenize_batch
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.drops import Dropped, DropReason, Origin

CHAT = "{% for m in messages %}{{ '[' + m['role'] + ']' + (m['content'] or '\\ud800') + '</s>' }}{% endfor %}"


def line(more: str = "", *, question: str = '"content": "q"', role: str = '"user"') -> bytes:
    prompt = f'[{{"role": {role}, {question}}}]'
    chosen, rejected = (f'[{{"role": "assistant", "content": "{text}"}}]' for text in ("yes", "no"))
    return f'{{"prompt": {prompt}, "chosen": {chosen}, "rejected": {rejected}{more}}}'.encode()


def nested(levels: int, opening: str = "[", closing: str = "]") -> str:
    return opening * levels + "1" + closing * levels


GOOD = [line(), line(f', "x": {nested(400)}'), line(', "note": "' + "[{" * 600 + '\\"["')]
# A row, its reason by our rules, and the reason by TRL's; None where it becomes a pair.
BAD: list[tuple[bytes, str | None, str | None]] = [
    (line(f', "x": {nested(401)}'), "unreadable", "unreadable"),
    (line(f', "x": {nested(970)}'), "unreadable", "unreadable"),
    (line(f', "x": {nested(300, chr(123) + chr(34) + "k" + chr(34) + ":[", "]" + chr(125))}'), *["unreadable"] * 2),
    (line(f', "x": {nested(100_000)}'), "unreadable", "unreadable"),
    (b"[" * 100_000, "unreadable", "unreadable"),
    (line(f', "score_chosen": 1{"0" * 400}, "score_rejected": 1'), "wrong_type", None),
    (line(f', "x": 1{"0" * 5000}'), "unreadable", "unreadable"),
    (line(', "chat_template_kwargs": 5'), "wrong_type", "wrong_type"),
    (line(question='"\\ud800": 1'), None, "unreadable"),
    (line(role='"\\ud800"'), "bad_roles", None),
    (line(role='"\\u001b[2J"'), "bad_roles", None),
    (line(', "\\ud800": 1'), None, None),
    (line(f', "tools": "{nested(900)}"'), None, None),
]


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(make_tokenizer(tmp_path_factory.mktemp("tokenizer"), chat_template=CHAT))


def drop_reason(content: bytes, tokenizer: Tokenizer, compat: Any) -> str | None:
    """The reason of a row's drop; None for a pair, and for a drop whose reason others decide."""
    source = SourceConfig(path="a", format="messages")
    config = PreprocessConfig(source=source, tokenizer="t", output="o", compat=compat)
    rules = text_rules.choose_rules(config)
    raw = make_row(Origin(0, 0), content, None)
    assert raw.as_bytes() and raw.as_text().encode()
    try:
        pairs = rules.parse_row(raw, source=source)
    except Dropped as dropped:
        return str(dropped.reason)
    (ids,) = tokenize_batch(pairs, tokenizer, rules, config)
    return str(ids.reason) if isinstance(ids, Dropped) else None


@pytest.mark.parametrize("compat", [None, "trl"])
def test_what_a_row_does_stays_its_own(tokenizer: Tokenizer, compat: str | None):
    for content in GOOD:
        assert drop_reason(content, tokenizer, compat) is None
    for content, ours, trl in BAD:
        reason, expected = drop_reason(content, tokenizer, compat), trl if compat else ours
        assert reason == expected or (expected is None and reason in map(str, DropReason)), content[:200]
