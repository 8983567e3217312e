import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tokenizers
from huggingface_hub import constants

from oddsmill.pipeline.tokens.tokenizer import TextTokenizer, find_tokenizer
from oddsmill.schemas.errors import Refused
from tests.pipeline.hub_server import COMMIT, FakeHub


def test_special_tokens_come_from_the_configuration(make_tokenizer: Callable[..., Path], tmp_path: Path):
    tokenizer = TextTokenizer(make_tokenizer(tmp_path, bos_token={"content": "<s>", "lstrip": False}))
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    assert tokenizer.encode_batch(["<s>"]) == [[1]]


def test_special_tokens_may_stand_in_the_map_alone(make_tokenizer: Callable[..., Path], tmp_path: Path):
    make_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").rename(tmp_path / "special_tokens_map.json")
    assert TextTokenizer(tmp_path).eos_id == 2


def test_no_bos_is_none_and_no_pad_is_eos(make_tokenizer: Callable[..., Path], tmp_path: Path):
    tokenizer = TextTokenizer(make_tokenizer(tmp_path, bos_token=None, pad_token=None))
    assert tokenizer.bos_id is None
    assert tokenizer.pad_id == tokenizer.eos_id == 2


def test_a_null_of_the_configuration_is_not_overruled_by_the_map(make_tokenizer: Callable[..., Path], tmp_path: Path):
    make_tokenizer(tmp_path, bos_token=None)
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": "<s>"}')
    assert TextTokenizer(tmp_path).bos_id is None


def test_the_vocabulary_reaches_to_the_highest_id(tmp_path: Path):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "</s>": 50, "b": 99}, unk_token="a"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    assert tokenizer.get_vocab_size() == 3
    assert TextTokenizer(tmp_path).vocab_size == 100


def test_truncation_padding_and_templates_of_the_file_have_no_effect(
    make_tokenizer: Callable[..., Path], tmp_path: Path
):
    path = make_tokenizer(tmp_path) / "tokenizer.json"
    plain = TextTokenizer(tmp_path).encode_batch(["What is", "What is the capital of France?"])
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=64)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer.save(str(path))
    assert TextTokenizer(tmp_path).encode_batch(["What is", "What is the capital of France?"]) == plain


def test_white_space_is_known_token_by_token(tokenizer_folder: Path):
    tokenizer = TextTokenizer(tokenizer_folder)
    (ids,) = tokenizer.encode_batch([" \n"])
    assert all(map(tokenizer.is_space, ids))
    (ids,) = tokenizer.encode_batch(["a."])
    assert not any(map(tokenizer.is_space, [*ids, tokenizer.eos_id, tokenizer.pad_id]))


def test_the_digest_of_the_template_follows_the_file_where_there_is_one(
    make_tokenizer: Callable[..., Path], tmp_path: Path
):
    folder = make_tokenizer(tmp_path, chat_template="{{ one }}")
    first = TextTokenizer(folder).summary()
    (folder / "chat_template.jinja").write_text("{{ two }}")
    second = TextTokenizer(folder).summary()
    assert first.chat_template_sha256 != second.chat_template_sha256
    assert set(second.sha256) == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


def test_a_copy_is_the_same_tokenizer(tokenizer_folder: Path, tmp_path: Path):
    TextTokenizer(tokenizer_folder).copy(tmp_path / "copy")
    assert TextTokenizer(tmp_path / "copy").summary() == TextTokenizer(tokenizer_folder).summary()


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
        TextTokenizer(make_tokenizer(tmp_path, **change))


def test_a_folder_without_or_with_a_broken_tokenizer_is_refused(tmp_path: Path):
    with pytest.raises(Refused, match=r"has no tokenizer\.json\. Save it with transformers"):
        TextTokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(Refused, match=r"not a tokenizer\.json"):
        TextTokenizer(tmp_path)


def test_a_name_that_is_neither_folder_nor_hub_id_is_refused(tmp_path: Path):
    for name in ("nowhere", "/no/such/folder", "../org/name", "a/b/c"):
        with pytest.raises(Refused, match="no such folder, and not a hub id"):
            find_tokenizer(name, None)
    with pytest.raises(Refused, match="a local folder, which has no revisions"):
        find_tokenizer(str(tmp_path), "main")


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
    assert TextTokenizer(folder).summary() == TextTokenizer(hub.folder).summary()
    names = {path.removeprefix(f"/org/name/resolve/{COMMIT}/") for path in (line.split()[1] for line in hub.asked)}
    assert {name for name in names if not name.startswith("/api/")} == {
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "additional_chat_templates/tool_use.jinja",
    }  # fmt: skip


@pytest.mark.parametrize("gone", ["offline", "unreachable"])
def test_what_was_downloaded_once_serves_without_a_connection(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, gone: str):
    online = TextTokenizer(find_tokenizer("org/name", None)).summary()
    hub.asked.clear()
    if gone == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setattr(constants, "ENDPOINT", "http://localhost:1")
    folder = find_tokenizer("org/name", None)
    assert TextTokenizer(folder).summary() == online
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
