"""A tokenizer is the same where it makes the same ids, whatever its files look like."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tokenizers

from oddsmill.schemas.chat.identity import differences, ids_sha256
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.manifest import file_sha256
from tests.conftest import ROOT

TINY = ROOT / "recipes/tiny/tokenizer"
CONTENT: dict[str, Any] = json.loads((TINY / "tokenizer.json").read_text())


def saved(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda content: None, **dump: Any) -> Path:
    """The tiny recipe's tokenizer with a changed tokenizer.json, written anew."""
    content = copy.deepcopy(CONTENT)
    change(content)
    shutil.copytree(TINY, folder)
    (folder / "tokenizer.json").write_text(json.dumps(content, **dump))
    return folder


def added(content: dict[str, Any], token: str, index: int, **flags: Any) -> None:
    plain = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    content["added_tokens"].append({"id": index, "content": token, "special": True} | plain | flags)


def pairs_for_merges(content: dict[str, Any]) -> None:
    merges = content["model"]["merges"]
    content["model"]["merges"] = [m.split(" ") if isinstance(m, str) else " ".join(m) for m in merges]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: None,
        pairs_for_merges,
        lambda content: content["model"].pop("ignore_merges", None),
        lambda content: content["model"].update(byte_fallback=False, dropout=None, continuing_subword_prefix=""),
        lambda content: content.update(truncation={"max_length": 8}, padding={}, version="2.0", post_processor=None),
        lambda content: content.update(decoder=None, normalizer={"type": "Sequence", "normalizers": []}),
        lambda content: content["pre_tokenizer"].update(trim_offsets=False),
        lambda content: content["pre_tokenizer"].pop("use_regex"),
        lambda content: content["added_tokens"].reverse(),
        lambda content: content["added_tokens"][2].update(special=False),
    ],
)
def test_what_changes_no_id_changes_no_identity(tmp_path: Path, change: Callable[[dict[str, Any]], Any]):
    assert ids_sha256(saved(tmp_path / "a", change, indent=7)) == ids_sha256(TINY)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda content: content["model"].update(byte_fallback=True), "model"),
        (lambda content: content["model"].update(ignore_merges=True), "model"),
        (lambda content: content["model"].update(dropout=0.1), "model"),
        (lambda content: content["model"]["merges"].pop(), "merges"),
        (lambda content: content["model"]["vocab"].update(zebra=1024), "vocabulary (of 1,024 and 1,025 tokens)"),
        (lambda content: content.update(normalizer={"type": "NFC"}), "normalizer"),
        (lambda content: content["pre_tokenizer"].update(add_prefix_space=True), "pre-tokenizer"),
        (lambda content: content["added_tokens"][2].update(rstrip=True), "added token '</s>'"),
        (lambda content: added(content, "<x>", 1024), "added token '<x>'"),
        (
            lambda content: [added(content, f"<{n}>", 1024 + n) for n in range(5)],
            "added token '<0>', '<1>', '<2>' and 2 more",
        ),
    ],
)
def test_what_changes_ids_is_named(tmp_path: Path, change: Callable[[dict[str, Any]], Any], named: str):
    other = saved(tmp_path / "a", change)
    assert ids_sha256(other) != ids_sha256(TINY)
    assert differences(manifest(TINY, 1023), TINY, other) == [named]


def test_a_token_that_no_row_holds_makes_no_difference(tmp_path: Path):
    own = saved(tmp_path / "own", lambda content: added(content, "[PAD]", 1024))
    assert differences(manifest(own, max_token_id=1023), own, TINY) == []
    assert differences(manifest(own, max_token_id=1024), own, TINY) == ["added token '[PAD]'"]


def test_tokens_beside_the_file_count_as_those_in_it(tmp_path: Path):
    inside = saved(tmp_path / "inside", lambda content: added(content, "<tag>", 1024))
    beside = saved(tmp_path / "beside")
    (beside / "tokenizer_config.json").write_text(json.dumps({"additional_special_tokens": ["<tag>"]}))
    assert ids_sha256(inside) == ids_sha256(beside) != ids_sha256(TINY)


def test_a_dataset_of_an_older_version_is_told_by_its_files(tmp_path: Path):
    old = manifest(TINY, 1023)
    old.tokenizer.ids_sha256 = None
    again = saved(tmp_path / "a", indent=7)
    assert differences(old, TINY, again) == []
    assert differences(old, tmp_path / "gone", TINY) == []
    assert differences(old, tmp_path / "gone", again) == ["tokenizer.json"]


def manifest(folder: Path, max_token_id: int) -> Any:
    sha256 = {"tokenizer.json": file_sha256(folder / "tokenizer.json")}
    summary = SimpleNamespace(ids_sha256=ids_sha256(folder), sha256=sha256)
    return SimpleNamespace(tokenizer=summary, max_token_id=max_token_id)


def test_real_tokenizers_saved_again_are_the_same(shared: Path, tmp_path: Path):
    folders = [shared / "data/tokenizers" / name for name in ("phi-3-mini", "minimind-chatml")]
    folders += [path for path in (shared / "golden/tokenizers").iterdir() if path.is_dir()]
    for folder in folders:
        again = tmp_path / folder.name
        shutil.copytree(folder, again)
        core = Tokenizer(folder).core
        core.enable_truncation(512)
        (again / "tokenizer.json").unlink()
        core.save(str(again / "tokenizer.json"))
        assert ids_sha256(again) == ids_sha256(folder), folder


def test_the_types_of_models_are_told_apart(tmp_path: Path):
    models = tokenizers.models
    made = {
        "words": models.WordLevel({"a": 0, "b": 1}, unk_token="a"),
        "gap": models.WordLevel({"a": 0, "b": 2}, unk_token="a"),
        "pieces": models.WordPiece({"a": 0, "b": 1}, unk_token="a"),
        "scores": models.Unigram([("a", 0.0), ("b", -1.0)], unk_id=0),
        "unk": models.Unigram([("a", 0.0), ("b", -1.0)], unk_id=1),
        "other scores": models.Unigram([("a", 0.0), ("b", -2.0)], unk_id=0),
    }
    digests = {}
    for name, model in made.items():
        (tmp_path / name).mkdir()
        tokenizers.Tokenizer(model).save(str(tmp_path / name / "tokenizer.json"))
        digests[name] = ids_sha256(tmp_path / name)
    assert len(set(digests.values())) == len(made)
