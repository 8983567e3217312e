import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from oddsmill.schemas.chat.tokenizer import Tokenizer, TurnMarkers
from oddsmill.schemas.errors import Refused

USER = {"role": "user", "content": "q"}
CHATML = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_special_tokens_come_from_the_configuration(make_tokenizer: Callable[..., Path], tmp_path: Path):
    tokenizer = Tokenizer(make_tokenizer(tmp_path, bos_token={"content": "<s>", "lstrip": False}))
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert tokenizer.encode_batch(["<s>"]) == [tokenizer.encode("<s>")] == [[1]]


def test_special_tokens_may_stand_in_the_map_alone(make_tokenizer: Callable[..., Path], tmp_path: Path):
    make_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").rename(tmp_path / "special_tokens_map.json")
    assert Tokenizer(tmp_path).eos_id == 2


def test_a_null_of_the_configuration_is_not_overruled_by_the_map(make_tokenizer: Callable[..., Path], tmp_path: Path):
    make_tokenizer(tmp_path, bos_token=None)
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": "<s>"}')
    assert Tokenizer(tmp_path).bos_id is None


def test_the_vocabulary_reaches_to_the_highest_id(tmp_path: Path):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "</s>": 50, "b": 99}, unk_token="a"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    assert tokenizer.get_vocab_size() == 3
    assert Tokenizer(tmp_path).vocab_size == 100


def test_truncation_padding_and_templates_of_the_file_have_no_effect(
    make_tokenizer: Callable[..., Path], tmp_path: Path
):
    path = make_tokenizer(tmp_path) / "tokenizer.json"
    plain = Tokenizer(tmp_path).encode_batch(["What is", "What is the capital of France?"])
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=64)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer.save(str(path))
    assert Tokenizer(tmp_path).encode_batch(["What is", "What is the capital of France?"]) == plain


def test_white_space_is_known_token_by_token(tokenizer_folder: Path):
    tokenizer = Tokenizer(tokenizer_folder)
    (ids,) = tokenizer.encode_batch([" \n"])
    assert all(map(tokenizer.is_space, ids))
    (ids,) = tokenizer.encode_batch(["a."])
    assert not any(map(tokenizer.is_space, [*ids, tokenizer.eos_id, 0]))


def test_a_folder_without_or_with_a_broken_tokenizer_is_refused(tmp_path: Path):
    with pytest.raises(Refused, match=r"has no tokenizer\.json: copy .* or save it with transformers"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(Refused, match=r"not a tokenizer\.json"):
        Tokenizer(tmp_path)


def test_the_templates_of_a_folder(make_tokenizer: Callable[..., Path], tmp_path: Path):
    named = [{"name": "default", "template": "one"}, {"name": "tool_use", "template": "two"}]
    folder = make_tokenizer(tmp_path / "a", chat_template=named)
    assert rendered(Tokenizer(folder)) == "one"
    assert rendered(Tokenizer(folder), tools=[{}]) == "two"
    assert rendered(Tokenizer(folder, chat_template="tool_use")) == "two"
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/rag.jinja").write_text("three")
    (folder / "chat_template.jinja").write_text("four")
    assert rendered(Tokenizer(folder)) == "four"
    assert rendered(Tokenizer(folder, chat_template="rag")) == "three"


def rendered(tokenizer: Tokenizer, **variables: Any) -> str:
    assert tokenizer.chat_template is not None
    return tokenizer.chat_template.render([USER], variables=variables)


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
    tokenizer = Tokenizer(make_tokenizer(tmp_path, chat_template=template))
    assert list(map(tokenizer.token, tokenizer.turn_markers.end[:1])) == [expected] * (expected is not None)
    assert tokenizer.answer_ends == {tokenizer.eos_id, *tokenizer.turn_markers.end[:1]}


def test_real_tokenizers_end_turns_with_these_tokens(shared: Path):
    expected = {"llama-3": "<|eot_id|>", "qwen2": "<|im_end|>", "minimind-chatml": "<|im_end|>"}
    expected |= {"phi-3-mini": "<|end|>", "phi-3-vision-bos": "<|end|>"}
    for name, token in expected.items():
        tokenizer = Tokenizer(shared / "data/tokenizers" / name)
        assert tokenizer.token(tokenizer.turn_markers.end[0]) == token


def test_the_next_turn_begins_with_a_token_only_where_the_template_writes_one(
    make_tokenizer: Callable[..., Path], tmp_path: Path
):
    plain = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    marked = "{% for m in messages %}<s>{{ m.content }}{{ eos_token }}{% endfor %}"
    once = marked.replace("<s>", "{% if loop.index0 > 1 %}{{ raise_exception('two turns alone') }}{% endif %}")
    found = [Tokenizer(make_tokenizer(tmp_path, chat_template=text)).turn_markers for text in (plain, marked, once)]
    assert found == [TurnMarkers([2], None), TurnMarkers([2], 1), TurnMarkers([2], None)]


def test_bos_stands_once_at_the_head(make_tokenizer: Callable[..., Path], tmp_path: Path):
    tokenizer = Tokenizer(make_tokenizer(tmp_path / "a"))
    assert tokenizer.with_bos([5, 1]) == [1, 5, 1] == tokenizer.with_bos([1, 5, 1]) and tokenizer.with_bos([]) == [1]
    assert Tokenizer(make_tokenizer(tmp_path / "b", bos_token=None)).with_bos([5]) == [5]


def test_without_an_eos_answers_end_where_their_turn_does(make_tokenizer: Callable[..., Path], tmp_path: Path):
    template = "{% for m in messages %}{{ m.content }}<pad>{% endfor %}"
    tokenizer = Tokenizer(make_tokenizer(tmp_path, chat_template=template, eos_token=None))
    assert tokenizer.answer_ends == {0}
    with pytest.raises(Refused, match="names no eos_token, so an answer could not end"):
        _ = tokenizer.eos_id


def test_decoding_may_leave_special_tokens_out(tokenizer_folder: Path):
    tokenizer = Tokenizer(tokenizer_folder)
    ids = [1, *tokenizer.encode("What is"), 2]
    assert tokenizer.decode(ids) == "<s>What is</s>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "What is"
    starts = tokenizer.token_starts("What is")
    assert starts[0] == 0 and starts == sorted(set(starts)) and len(starts) == len(tokenizer.encode("What is"))
    assert tokenizer.token(2) == "</s>" and tokenizer.token(999_999) == "<999999>"


def test_importing_it_needs_neither_tokenizers_nor_jinja():
    code = (
        "import sys; sys.modules['tokenizers'] = sys.modules['jinja2'] = None\n"
        "from oddsmill.schemas.chat.tokenizer import Tokenizer"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_pattern_that_needs_too_many_steps_on_a_text_is_a_refusal_that_quotes_it(
    make_tokenizer: Callable[..., Path], tmp_path: Path
):
    folder = make_tokenizer(tmp_path / "tokenizer")
    content = json.loads((folder / "tokenizer.json").read_text())
    pattern = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    (folder / "tokenizer.json").write_text(json.dumps(content | {"pre_tokenizer": pattern}))
    tokenizer = Tokenizer(folder)
    hard = "a" * 40 + "b"
    for encode in (lambda: tokenizer.encode(hard), lambda: tokenizer.encode_batch(["x", hard])):
        with pytest.raises(Refused, match=r'fails on a text that begins with "a{40}b" \(Onig: .*retry-limit-in-match'):
            encode()
    assert tokenizer.encode("ab")


def test_the_flat_ids_of_texts_are_those_of_each_one_after_another(make_tokenizer: Callable[..., Path], tmp_path: Path):
    tokenizer = Tokenizer(make_tokenizer(tmp_path))
    texts = ["one two", "", "Three!", "one two"]
    ids, offsets = tokenizer.encode_flat(texts)
    assert [ids[start:end].tolist() for start, end in pairwise(offsets)] == tokenizer.encode_batch(texts)
    assert len(offsets) == len(texts) + 1 and ids.itemsize == 4
