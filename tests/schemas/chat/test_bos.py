"""BOS begins what it begins at inference: texts by the post-processor, dialogues by the chat template."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from oddsmill.schemas.chat.bos import post_processor, template_writes_bos, writing_bos
from oddsmill.schemas.chat.template import ChatTemplate
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.errors import Refused
from tests.conftest import ROOT

TINY: dict[str, Any] = json.loads((ROOT / "recipes/tiny/tokenizer/tokenizer.json").read_text())
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
NONE, BOS, EOS, BOTH = ((None, None), ("<s>", None), (None, "</s>"), ("<s>", "</s>"))


def tokenizer_with(folder: Path, processor: Any, *, add_bos: Any = "auto", **config: Any) -> Tokenizer:
    """The tiny recipe's tokenizer with another post-processor and settings."""
    folder.mkdir(exist_ok=True)
    processor = post_processor(*processor, {"<s>": 1, "</s>": 2}) if isinstance(processor, tuple) else processor
    (folder / "tokenizer.json").write_text(json.dumps(TINY | {"post_processor": processor}))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENS | config))
    return Tokenizer(folder, add_bos=add_bos)


@pytest.mark.parametrize(
    ("processor", "declared", "add_bos", "expected"),
    [
        (BOS, None, "auto", True),
        (BOS, True, "auto", True),
        (NONE, None, "auto", False),
        (NONE, False, "auto", False),  # phi-3-mini, minimind: as inference has it
        (None, None, "auto", False),  # GPT-2
        (None, True, "auto", True),
        (BOS, False, "auto", True),  # transformers 5 and tokenizers follow the post-processor
        (BOTH, None, "auto", True),
        (EOS, None, "auto", False),
        (NONE, False, True, True),
        (BOS, True, False, False),
        (BOTH, True, False, False),
        (NONE, None, "texts", True),
    ],
)
def test_texts_begin_with_bos_as_they_do_at_inference(tmp_path, processor, declared, add_bos, expected):
    given = {} if declared is None else {"add_bos_token": declared}
    tokenizer = tokenizer_with(tmp_path, processor, add_bos=add_bos, **given)
    assert tokenizer.adds_bos is expected
    assert tokenizer.with_bos([5]) == ([1, 5] if expected else [5])
    assert tokenizer.with_bos([1, 5]) == [1, 5]
    # The tokenizer.json that goes with the rows does the same in any library, and keeps its EOS.
    ids = tokenizers.Tokenizer.from_str(tokenizer.content.decode()).encode("tree").ids
    assert ids[: -1 if processor in (EOS, BOTH) else None] == tokenizer.with_bos(tokenizer.encode("tree"))
    assert (ids[-1] == 2) == (processor in (EOS, BOTH))


def test_no_bos_is_added_where_there_is_none(tmp_path):
    for add_bos in ("auto", "texts", False):
        assert tokenizer_with(tmp_path, None, add_bos=add_bos, bos_token=None).with_bos([5]) == [5]
    with pytest.raises(Refused, match=r"--add_bos=true: the tokenizer in .* has no bos_token; leave it out"):
        tokenizer_with(tmp_path, None, add_bos=True, bos_token=None)


def test_real_tokenizers_begin_texts_as_transformers_does(shared: Path):
    expected = {
        "minimind-chatml": False,
        "phi-3-mini": False,
        "phi-3-vision-bos": True,
    }
    folders = {name: Tokenizer(shared / "data/tokenizers" / name) for name in expected}
    assert {name: tokenizer.adds_bos for name, tokenizer in folders.items()} == expected


WRITES, WRITES_NONE = "{{ bos_token }}{{ messages[0].content }}", "{{ messages[0].content }}"


def test_templates_are_made_to_write_bos_where_they_do_not():
    assert writing_bos(WRITES, TOKENS) == WRITES
    assert writing_bos({"default": WRITES_NONE, "tool_use": WRITES}, TOKENS) == {"default": WRITES, "tool_use": WRITES}
    takes_answers = "{% if messages|length < 2 %}{{ raise_exception('one more') }}{% endif %}" + WRITES_NONE
    assert writing_bos(takes_answers, TOKENS) == "{{ bos_token }}" + takes_answers
    fails = "{{ raise_exception('no') }}"
    assert template_writes_bos(ChatTemplate(fails, TOKENS), "<s>") is None
    with pytest.raises(Refused, match="--add_bos=true: the chat template fails on a question"):
        writing_bos(fails, TOKENS)


def test_a_template_that_was_made_to_write_bos_takes_the_place_of_the_tokenizers(make_tokenizer: Callable, tmp_path):
    folder = make_tokenizer(tmp_path, chat_template=WRITES_NONE)
    turns = [{"role": "user", "content": "q"}]
    for add_bos, text in (("auto", "q"), (False, "q"), ("texts", "q"), (True, "<s>q")):
        tokenizer = Tokenizer(folder, add_bos=add_bos)
        assert tokenizer.chat_template is not None and tokenizer.chat_template.render(turns) == text
        assert tokenizer.given_template == (WRITES if add_bos is True else None)
