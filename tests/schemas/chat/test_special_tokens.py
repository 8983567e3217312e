import json

import pytest

from oddsmill.schemas.chat.special_tokens import read_json_object, read_special_tokens
from oddsmill.schemas.errors import Refused


def test_the_tokenizers_settings_win_over_the_map_with_a_null_too(tmp_path):
    assert read_special_tokens(tmp_path) == {}
    of_map = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": {"content": "<unk>", "lstrip": False}, "x": "y"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(of_map))
    assert read_special_tokens(tmp_path) == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": None, "eos_token": {"content": "<end>"}}))
    assert read_special_tokens(tmp_path) == {"eos_token": "<end>", "unk_token": "<unk>"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "broken JSON"),
        ("[]", "not a JSON object"),
        ('{"bos_token": "\\ud800"}', "broken JSON"),
        ('{"eos_token": {"content": "a\\uDFFF"}}', "broken JSON"),
        ('{"\\ud83d": 1}', "broken JSON"),
    ],
)
def test_settings_that_cannot_be_read_are_refused(tmp_path, content, problem):
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(Refused, match=rf"tokenizer_config\.json: {problem}"):
        read_special_tokens(tmp_path)


def test_an_escaped_pair_is_a_character(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "\\uD83D\\uDE00"}')
    assert read_special_tokens(tmp_path) == {"bos_token": "😀"}


def test_of_two_equal_keys_the_last_counts_as_in_transformers(tmp_path):
    path = tmp_path / "tokenizer_config.json"
    path.write_text('{"eos_token": "<a>", "x": {"y": 1, "y": 2}, "eos_token": "<b>"}')
    assert read_json_object(path) == {"eos_token": "<b>", "x": {"y": 2}}
    path.write_text("[" * 100_000)
    with pytest.raises(Refused, match="broken JSON"):
        read_json_object(path)
