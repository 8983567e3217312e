from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oddsmill.pipeline.tokens.tokenizer import TextTokenizer
from oddsmill.schemas.errors import Refused

USER = {"role": "user", "content": "q"}
CHATML = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_the_templates_of_a_folder(make_tokenizer: Callable[..., Path], tmp_path: Path):
    named = [{"name": "default", "template": "one"}, {"name": "tool_use", "template": "two"}]
    folder = make_tokenizer(tmp_path / "a", chat_template=named)
    assert rendered(TextTokenizer(folder)) == "one"
    assert rendered(TextTokenizer(folder), tools=[{}]) == "two"
    assert rendered(TextTokenizer(folder, chat_template="tool_use")) == "two"
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/rag.jinja").write_text("three")
    (folder / "chat_template.jinja").write_text("four")
    assert rendered(TextTokenizer(folder)) == "four"
    assert rendered(TextTokenizer(folder, chat_template="rag")) == "three"
    assert "additional_chat_templates/rag.jinja" in TextTokenizer(folder).summary().sha256


def rendered(tokenizer: TextTokenizer, **variables: Any) -> str:
    assert tokenizer.chat_template is not None
    return tokenizer.chat_template.render([USER], variables=variables)


def test_a_given_template_takes_the_place_of_the_tokenizers(make_tokenizer: Callable[..., Path], tmp_path: Path):
    folder = make_tokenizer(tmp_path / "a", chat_template="own {{ eos_token }}")
    file = tmp_path / "mine.jinja"
    file.write_text("mine {{ eos_token }}")
    for setting in (str(file), "mine {{ eos_token }}"):
        tokenizer = TextTokenizer(folder, chat_template=setting)
        assert rendered(tokenizer) == "mine </s>"
        tokenizer.copy(tmp_path / "copy")
        copy = TextTokenizer(tmp_path / "copy")
        assert rendered(copy) == "mine </s>"
        assert copy.summary() == tokenizer.summary() != TextTokenizer(folder).summary()
    with pytest.raises(Refused, match=r"--chat_template=absent\.jinja: not a file that can be read"):
        TextTokenizer(folder, chat_template="absent.jinja")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, "</s>"),
        ("{% for m in messages %}{{ m.content }}<pad> {{ eos_token }}{% endfor %}", "<pad>"),
        ("{% for m in messages %}{{ m.content }}. {% endfor %}", None),
        ("{{ raise_exception('no') }}", None),
        (None, None),
    ],
)
def test_the_end_of_a_turn_is_what_the_template_writes_after_an_answer(
    make_tokenizer: Callable[..., Path], tmp_path: Path, template: str | None, expected: str | None
):
    tokenizer = TextTokenizer(make_tokenizer(tmp_path, chat_template=template))
    token = tokenizer.end_of_turn_id
    assert (None if token is None else tokenizer.token(token)) == expected


def test_real_tokenizers_end_turns_with_these_tokens(shared: Path):
    expected = {"llama-3": "<|eot_id|>", "qwen2": "<|im_end|>", "minimind-chatml": "<|im_end|>"}
    expected |= {"phi-3-mini": "<|end|>", "phi-3-vision-bos": "<|end|>"}
    for name, token in expected.items():
        tokenizer = TextTokenizer(shared / "data/tokenizers" / name)
        assert tokenizer.end_of_turn_id is not None
        assert tokenizer.token(tokenizer.end_of_turn_id) == token
