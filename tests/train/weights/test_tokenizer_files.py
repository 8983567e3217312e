"""The tokenizer of an exported folder. tests/parity/test_tokenizers.py loads such folders in transformers."""

import json
from pathlib import Path
from typing import Any

import pytest

from oddsmill.schemas.chat.identity import ids_sha256
from oddsmill.schemas.errors import Refused
from oddsmill.train.weights.tokenizer_files import copy_tokenizer, export_tokenizer, note_on_class, obeying
from tests.conftest import ROOT

BYTES = {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}


@pytest.mark.parametrize(
    ("config", "content", "expected"),
    [
        ({}, {}, {}),
        ({"tokenizer_class": "LlamaTokenizer", "legacy": False}, {}, {"legacy": False}),
        ({"auto_map": {"AutoTokenizer": ["x.Y", None]}, "from_slow": True, "tokenizer_file": "/of/another"}, {}, {}),
        ({"split_special_tokens": True}, {}, {}),
        ({"extra_special_tokens": ["<a>", {"content": "<b>"}]}, {}, {"additional_special_tokens": ["<a>", "<b>"]}),
        ({"extra_special_tokens": [], "additional_special_tokens": ["a"]}, {}, {"additional_special_tokens": ["a"]}),
        ({"extra_special_tokens": {"image_token": "<i>"}}, {}, {"extra_special_tokens": {"image_token": "<i>"}}),
        ({"add_prefix_space": False}, BYTES, {"add_prefix_space": True}),
        ({}, BYTES, {"add_prefix_space": True}),
        ({"add_prefix_space": True}, {"pre_tokenizer": None}, {"add_prefix_space": True}),
    ],
)  # fmt: skip
def test_the_settings_lead_to_tokenizer_json(config: dict[str, Any], content: dict[str, Any], expected: dict[str, Any]):
    assert obeying(config, content) == expected | FAST


def test_an_export_keeps_all_else(shared: Path, tmp_path: Path):
    folder = shared / "data/tokenizers/phi-3-mini"
    export_tokenizer(tmp_path, folder)
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    given, written = (json.loads((path / "tokenizer_config.json").read_text()) for path in (folder, tmp_path))
    assert written == given | FAST and given["tokenizer_class"] == "LlamaTokenizer"
    assert ids_sha256(tmp_path) == ids_sha256(folder)


def test_files_of_the_model_that_other_tools_read_go_along(tmp_path: Path):
    rows, model = tmp_path / "rows", tmp_path / "model"
    for folder, files in (
        (rows, ("tokenizer.json", "added_tokens.json")),
        (model, ("tokenizer.json", "merges.txt", "added_tokens.json")),
    ):
        folder.mkdir()
        for name in files:
            (folder / name).write_text(folder.name)
    copy_tokenizer(tmp_path / "a", rows, model)
    copied = {path.name: path.read_text() for path in (tmp_path / "a").iterdir()}
    assert copied == {"tokenizer.json": "rows", "added_tokens.json": "rows", "merges.txt": "model"}
    (model / "tokenizer.json").unlink()
    copy_tokenizer(tmp_path / "b", rows, model)
    assert not (tmp_path / "b" / "merges.txt").exists()


def test_where_transformers_5_takes_a_class_of_its_own_it_is_said(shared: Path):
    qwen, tiny = shared / "data/tokenizers/qwen2", ROOT / "recipes/tiny/tokenizer"
    assert note_on_class(qwen, "qwen2") is None
    assert note_on_class(tiny, "llama") is None is note_on_class(tiny, None)
    note = note_on_class(tiny, "qwen2")
    assert note is not None and "load it by PreTrainedTokenizerFast.from_pretrained(FOLDER)" in note


def test_no_file_of_elsewhere_is_given_away_as_the_tokenizers(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "secret").write_text("hunter2")
    rows, model = tmp_path / "rows", tmp_path / "model"
    for folder in (rows, model):
        folder.mkdir()
        (folder / "tokenizer.json").write_text("{}")
    (model / "merges.txt").symlink_to(tmp_path / "secret")
    with caplog.at_level("WARNING"):
        copy_tokenizer(tmp_path / "one", rows, model)
    assert "merges.txt is a link to" in caplog.text and not (tmp_path / "one" / "merges.txt").exists()
    (rows / "notes.txt").symlink_to("../secret")
    for copy in (
        lambda: copy_tokenizer(tmp_path / "two", rows, rows),
        lambda: export_tokenizer(tmp_path / "two", rows),
    ):
        with pytest.raises(Refused, match=r"notes\.txt is a link to .*secret, outside"):
            copy()


def test_the_files_of_a_folder_of_links_to_another_are_its_own(tmp_path: Path):
    there, links = tmp_path / "there", tmp_path / "links"
    for folder in (there, links):
        folder.mkdir()
    for name in ("tokenizer.json", "merges.txt"):
        (there / name).write_text("{}")
        (links / name).symlink_to(there / name)
    copy_tokenizer(tmp_path / "out", there, links)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["merges.txt", "tokenizer.json"]
