"""Added tokens beside tokenizer.json. The ids are those that transformers 4.57.6 and 5.23.0 gave these folders."""

import json
from pathlib import Path
from typing import Any

import pytest

from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.errors import Refused
from tests.conftest import ROOT

TINY_TOKENIZER = ROOT / "recipes/tiny/tokenizer"
TAG: dict[str, Any] = {"content": "<tag>", "special": True}


def folder(path: Path, files: dict[str, dict[str, Any]] | None = None, **config: Any) -> Path:
    """The tiny recipe's tokenizer of 1,024 ids, with further settings and files beside it."""
    (path / "tokenizer.json").write_bytes((TINY_TOKENIZER / "tokenizer.json").read_bytes())
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    (path / "tokenizer_config.json").write_text(json.dumps(named | config))
    for name, content in (files or {}).items():
        (path / name).write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("config", "files", "text", "expected"),
    [
        ({}, {}, "<tag>N", [30, 86, 826, 32, 48]),
        ({"added_tokens_decoder": {"1024": TAG}}, {}, "<tag>N", [1024, 48]),
        ({"added_tokens_decoder": {"1024": {"content": "<tag>"}}}, {}, "<tag>N", [1024, 48]),
        # By id, whatever the order in the file
        ({"added_tokens_decoder": {"1025": {"content": "<b>"}, "1024": TAG}}, {}, "<b><tag>", [1025, 1024]),
        # The flags of the settings replace those of tokenizer.json
        ({"added_tokens_decoder": {"2": {"content": "</s>", "lstrip": True, "special": True}}}, {}, "x  </s>", [90, 2]),
        ({}, {"added_tokens.json": {"<tag>": 1024}}, "<tag>N", [1024, 48]),
        # added_tokens_decoder leaves added_tokens.json without an effect
        ({"added_tokens_decoder": {}}, {"added_tokens.json": {"<tag>": 1024}}, "<tag>N", [30, 86, 826, 32, 48]),
        ({"additional_special_tokens": ["<tag>", "<b>"]}, {}, "<b><tag>", [1025, 1024]),
        ({"extra_special_tokens": ["<tag>"], "additional_special_tokens": ["<b>"]}, {}, "<tag>", [1024]),
        ({"extra_special_tokens": {"image_token": "<tag>"}}, {}, "<tag>N", [1024, 48]),
        ({"image_token": "<tag>"}, {}, "<tag>N", [1024, 48]),
        # Tokens by name come first
        ({"pad_token": "[PAD]", "additional_special_tokens": ["<tag>"]}, {}, "[PAD]<tag>", [1024, 1025]),
        ({"pad_token": {"content": "[PAD]", "lstrip": True}}, {}, "x [PAD]", [90, 1024]),
        (
            {},
            {
                "added_tokens.json": {"<b>": 1025, "<tag>": 1024},
                "special_tokens_map.json": {"additional_special_tokens": ["<b>", "<c>"]},
            },
            "<tag><b><c>",
            [1024, 1025, 1026],
        ),
        # A word of the vocabulary keeps its id, and is found in longer words then
        ({"added_tokens_decoder": {"901": {"content": "ice"}}}, {}, "price", [711, 901]),
    ],
)
def test_tokens_beside_tokenizer_json_have_the_ids_of_transformers(tmp_path, config, files, text, expected):
    tokenizer = Tokenizer(folder(tmp_path, files, **config))
    assert tokenizer.encode(text) == expected
    # The merged tokenizer.json makes the same ids by itself.
    (tmp_path / "tokenizer.json").write_bytes(tokenizer.content)
    assert Tokenizer(tmp_path).content == tokenizer.content
    (tmp_path / "tokenizer_config.json").unlink()
    for name in files:
        (tmp_path / name).unlink()
    assert Tokenizer(tmp_path).encode(text) == expected


def test_a_folder_without_further_tokens_is_taken_byte_for_byte():
    assert Tokenizer(TINY_TOKENIZER).content == (TINY_TOKENIZER / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"1030": TAG}, r"'<tag>' the id 1030, which .* lacks, and 1024 is the next that is free there"),
        ({"500": TAG}, r"'<tag>' the id 500, which .* lacks, and that is 'Ġfor' there"),
        ({"1": TAG}, r"'<tag>' the id 1, which .* lacks, and that is '<s>' there"),
        ({"x": TAG}, "added tokens are not tokens by id"),
        ({"1024": {"text": "<tag>"}}, "added tokens are not tokens by id"),
        ([TAG], "added tokens are not tokens by id"),
    ],
)
def test_an_id_that_a_token_cannot_have_is_refused_by_name(tmp_path, given, problem):
    with pytest.raises(Refused, match=rf"tokenizer_config\.json: .*{problem}"):
        Tokenizer(folder(tmp_path, added_tokens_decoder=given))


def test_a_bos_or_eos_that_no_vocabulary_has_is_not_made_up(tmp_path):
    tokenizer = Tokenizer(folder(tmp_path, bos_token="<begin>", eos_token="<end>"))
    assert (tokenizer.bos_id, tokenizer.special_id("eos_token"), tokenizer.vocab_size) == (None, None, 1024)
