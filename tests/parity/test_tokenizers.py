"""transformers makes the ids of the rows of an exported folder, and we make its ids of the folders that come in."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from oddsmill.pipeline.tokens.tokenizer import copy_tokenizer, load_tokenizer, summarize_tokenizer
from oddsmill.schemas.chat.identity import ids_sha256
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.train.weights.tokenizer_files import export_tokenizer, note_on_class
from tests.conftest import ROOT

TINY = ROOT / "recipes/tiny/tokenizer"
TEXTS = [
    "", "a", " a", "  a", "   leading", "trail  ", "\n", "\n\na", "a\n\n b", "\ttab", "I'm you're WE'LL",
    "12345 67 8", "3.14159", "\u00a1olé! naïve café", "cafe\u0301 e\u0301", "中文字符\uff0c测试\u3002",
    "日本語のテスト",
    "한국어", "🙂👍🏽👨\u200d👩\u200d👧", "\u200b\u200dzero", "مرحبا بالعالم", "नमस\u094dत\u0947", "<s>", "</s>",
    "<s>Hello", "a<s> b </s> c", "<|endoftext|>", "x </s>  y",
    "<|im_start|>user\nHi<|im_end|>\n",
    "<|user|>\nHi<|end|>\n<|assistant|>\n", "<|begin_of_text|><|eot_id|> x", "<unk>", "<tag>Name",
    "x <tag> y", "<pad> <|pad|>", "def f(x):\n    return x**2\n", "a\r\nb", "\u00a0nbsp", "ﬁ ﬂ \u2167",
    "x\u0000y", "A" * 200, " " * 50 + "a", "\u2581 \u2581a", "a\u2581b",
    "$100,000.00 \u2014 \u201cquoted\u201d", "word\u2028line", "\ufeffbom", "\uff11\uff12\uff13",
    "  <|end|>  y",
]  # fmt: skip
_ALPHABETS = [(32, 127), (32, 127), (0xA0, 0x24F), (0x4E00, 0x4FFF), (0x1F300, 0x1F6FF), (9, 11), (32, 33)]
_RANDOM = random.Random(7)
TEXTS += [
    "".join(chr(_RANDOM.randrange(*_RANDOM.choice(_ALPHABETS))) for _ in range(_RANDOM.randrange(1, 40)))
    for _ in range(200)
]
TAG = {"content": "<tag>", "special": True}
BESIDE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "by id": ({"added_tokens_decoder": {"1025": {"content": "<b>"}, "1024": TAG}}, {}),
    "other flags": ({"added_tokens_decoder": {"2": {"content": "</s>", "lstrip": True, "special": True}}}, {}),
    "added_tokens.json": ({}, {"added_tokens.json": {"<tag>": 1024}}),
    "map": ({}, {"special_tokens_map.json": {"additional_special_tokens": ["<tag>", "<c>"]}}),
    "extra": ({"extra_special_tokens": ["<tag>"], "additional_special_tokens": ["<b>"]}, {}),
    "extra by name": ({"extra_special_tokens": {"image_token": "<tag>"}}, {}),
    "padding": ({"pad_token": "[PAD]", "additional_special_tokens": ["<tag>"]}, {}),
}


def folders(shared: Path) -> dict[str, Path]:
    found = [*(shared / "data/tokenizers").iterdir(), *(shared / "golden/tokenizers").iterdir(), TINY]
    return {folder.name: folder for folder in found if folder.is_dir()}


def check(tokenizer: Tokenizer, folder: Path) -> None:
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    ids = loaded(TEXTS, add_special_tokens=False)["input_ids"]
    whole = loaded(TEXTS)["input_ids"]
    for text, without, with_bos in zip(TEXTS, ids, whole, strict=True):
        expected = tokenizer.encode(text)
        assert without == expected, text
        # A text that begins with BOS has two at inference; ours has one.
        assert with_bos == ([tokenizer.bos_id, *expected] if tokenizer.adds_bos else expected), text


def test_an_exported_tokenizer_makes_the_ids_of_the_rows(shared: Path, tmp_path: Path):
    for name, folder in folders(shared).items():
        tokenizer = load_tokenizer(folder)
        copy_tokenizer(tokenizer, tmp_path / name / "copy")
        for model_type in ("llama", "mistral", "gemma", "phi3", "qwen2", "qwen3", None):
            exported = tmp_path / name / str(model_type)
            export_tokenizer(exported, tmp_path / name / "copy")
            if model_type:
                (exported / "config.json").write_text(json.dumps({"model_type": model_type}))
            if note_on_class(exported, model_type) is None:
                check(tokenizer, exported)


@pytest.mark.parametrize("given", BESIDE)
def test_tokens_beside_tokenizer_json_have_the_ids_of_transformers(tmp_path: Path, given: str):
    config, files = BESIDE[given]
    shutil.copytree(TINY, tmp_path / "own")
    named = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
    }
    for name, content in (files | {"tokenizer_config.json": named | config}).items():
        (tmp_path / "own" / name).write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path / "own")
    assert given == "other flags" or len(tokenizer.encode("<tag>")) == 1
    copy_tokenizer(tokenizer, tmp_path / "copy")
    export_tokenizer(tmp_path / "exported", tmp_path / "copy")
    for folder in ("own", "copy", "exported"):
        check(tokenizer, tmp_path / folder)


def test_a_tokenizer_that_transformers_saves_again_is_the_same(shared: Path, tmp_path: Path):
    for name, folder in folders(shared).items():
        export_tokenizer(tmp_path / name, folder)
        transformers.AutoTokenizer.from_pretrained(tmp_path / name).save_pretrained(tmp_path / name / "again")
        again = tmp_path / name / "again"
        assert ids_sha256(again) == ids_sha256(folder), name
        ours, theirs = (summarize_tokenizer(load_tokenizer(each)) for each in (folder, again))
        assert ours.differences(theirs) == [], name
