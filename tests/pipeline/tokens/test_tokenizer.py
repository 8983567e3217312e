import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tokenizers
from huggingface_hub import constants

from oddsmill.pipeline.tokens.tokenizer import copy_tokenizer, find_tokenizer, load_tokenizer, summarize_tokenizer
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import file_sha256
from tests.pipeline.hub_server import COMMIT, FakeHub


def test_no_bos_is_none_and_no_pad_is_eos(make_tokenizer: Callable[..., Path], tmp_path: Path):
    tokenizer = load_tokenizer(make_tokenizer(tmp_path, bos_token=None, pad_token=None))
    summary = summarize_tokenizer(tokenizer)
    assert summary.bos_id is None
    assert summary.pad_id == summary.eos_id == 2


def test_the_digest_of_the_template_follows_the_file_where_there_is_one(
    make_tokenizer: Callable[..., Path], tmp_path: Path
):
    folder = make_tokenizer(tmp_path, chat_template="{{ one }}")
    first = summarize_tokenizer(load_tokenizer(folder))
    (folder / "chat_template.jinja").write_text("{{ two }}")
    second = summarize_tokenizer(load_tokenizer(folder))
    assert first.chat_template_sha256 != second.chat_template_sha256
    assert set(second.sha256) == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/rag.jinja").write_text("three")
    third = summarize_tokenizer(load_tokenizer(folder))
    assert third.sha256.keys() - second.sha256.keys() == {"additional_chat_templates/rag.jinja"}


def test_a_tokenizer_that_begins_texts_otherwise_makes_other_rows(tokenizer_folder: Path):
    with_bos, without = (summarize_tokenizer(load_tokenizer(tokenizer_folder, add_bos=add)) for add in (True, False))
    assert with_bos.ids_sha256 == without.ids_sha256
    assert with_bos.differences(without) == ["tokenizer.json", "BOS before texts"]


def test_a_copy_is_the_same_tokenizer(tokenizer_folder: Path, tmp_path: Path):
    copy_tokenizer(load_tokenizer(tokenizer_folder), tmp_path / "copy")
    assert summarize_tokenizer(load_tokenizer(tmp_path / "copy")) == summarize_tokenizer(
        load_tokenizer(tokenizer_folder)
    )


def test_the_copy_lists_the_tokens_that_stand_beside(make_tokenizer: Callable[..., Path], tmp_path: Path):
    beside = {"added_tokens_decoder": {"400": {"content": "<tag>", "special": True}}}
    tokenizer = load_tokenizer(make_tokenizer(tmp_path / "own", **beside))
    copy_tokenizer(tokenizer, tmp_path / "copy")
    core = tokenizers.Tokenizer.from_file(str(tmp_path / "copy" / "tokenizer.json"))
    assert core.encode("a<tag>").ids[-1:] == tokenizer.encode("a<tag>")[1:] == [400]
    copied, summary = summarize_tokenizer(load_tokenizer(tmp_path / "copy")), summarize_tokenizer(tokenizer)
    assert copied == summary and summary.vocab_size == 401
    assert summary.sha256["tokenizer.json"] == file_sha256(tmp_path / "copy" / "tokenizer.json")
    assert summary.ids_sha256 != summarize_tokenizer(load_tokenizer(make_tokenizer(tmp_path / "plain"))).ids_sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eos_token": None}, "names no eos_token"),
        ({"eos_token": "<nowhere>"}, "eos_token '<nowhere>' is not in the vocabulary"),
        ({"bos_token": "<nowhere>"}, "bos_token '<nowhere>' is not in the vocabulary"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_refused(
    make_tokenizer: Callable[..., Path], tmp_path: Path, change: dict, message: str
):
    with pytest.raises(Refused, match=message):
        load_tokenizer(make_tokenizer(tmp_path, **change))


def test_a_name_that_is_neither_folder_nor_hub_id_is_refused(tmp_path: Path):
    for name in ("nowhere", "/no/such/folder", "../org/name", "a/b/c"):
        with pytest.raises(Refused, match="no such folder, and not a hub id"):
            find_tokenizer(name, None)
    with pytest.raises(Refused, match="a local folder, which has no revisions"):
        find_tokenizer(str(tmp_path), "main")
    with pytest.raises(Refused, match=r"--tokenizer_revision=main: .* is a folder, which has no revisions"):
        find_tokenizer("memory://models/tokenizer", "main")


@pytest.fixture
def hub(tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with one model, `org/name`: a tokenizer with two templates, and weights."""
    model = Path(shutil.copytree(tokenizer_folder, tmp_path / "model"))
    (model / "chat_template.jinja").write_text("{{ messages }}")
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    (model / "model.safetensors").write_bytes(b"weights")
    server = FakeHub(model, "org/name", kind="models")
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    server.server_close()


def test_a_model_of_the_hub_gives_the_tokenizer_of_one_commit(hub: FakeHub):
    folder = find_tokenizer("org/name", None)
    assert summarize_tokenizer(load_tokenizer(folder)) == summarize_tokenizer(load_tokenizer(hub.folder))
    names = {path.removeprefix(f"/org/name/resolve/{COMMIT}/") for path in (line.split()[1] for line in hub.asked)}
    assert {name for name in names if not name.startswith("/api/")} == {
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "additional_chat_templates/tool_use.jinja",
    }  # fmt: skip


@pytest.mark.parametrize("gone", ["offline", "unreachable"])
def test_what_was_downloaded_once_serves_without_a_connection(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, gone: str):
    online = summarize_tokenizer(load_tokenizer(find_tokenizer("org/name", None)))
    hub.asked.clear()
    if gone == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setattr(constants, "ENDPOINT", "http://localhost:1")
    folder = find_tokenizer("org/name", None)
    assert summarize_tokenizer(load_tokenizer(folder)) == online
    assert (folder / "additional_chat_templates" / "tool_use.jinja").is_file()
    assert not hub.asked


def test_a_model_or_a_revision_that_the_hub_lacks_is_refused(hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(Refused, match=r"--tokenizer=org/other: no such folder, and the hub does not give it"):
        find_tokenizer("org/other", None)
    with pytest.raises(Refused, match=r"--tokenizer=org/name: .*the hub does not give it"):
        find_tokenizer("org/name", "no-such-tag")
    (hub.folder / "tokenizer.json").unlink()
    with pytest.raises(Refused, match=r"--tokenizer=org/name: the model has no tokenizer\.json on the hub"):
        find_tokenizer("org/name", None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Refused, match=r"--tokenizer=org/never: .*the hub does not give it"):
        find_tokenizer("org/never", None)


def test_a_given_template_takes_the_place_of_the_tokenizers(make_tokenizer: Callable[..., Path], tmp_path: Path):
    folder = make_tokenizer(tmp_path / "a", chat_template="own {{ eos_token }}")
    file = tmp_path / "mine.jinja"
    file.write_text("mine {{ eos_token }}")
    for setting in (str(file), "mine {{ eos_token }}"):
        tokenizer = load_tokenizer(folder, chat_template=setting)
        copy_tokenizer(tokenizer, tmp_path / "copy")
        copy = load_tokenizer(tmp_path / "copy")
        assert copy.chat_template is not None and copy.chat_template.render([]) == "mine </s>"
        assert summarize_tokenizer(copy) == summarize_tokenizer(tokenizer)
        assert summarize_tokenizer(copy) != summarize_tokenizer(load_tokenizer(folder))
    with pytest.raises(Refused, match=r"--chat_template=absent\.jinja: not a file that can be read"):
        load_tokenizer(folder, chat_template="absent.jinja")
