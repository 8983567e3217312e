"""A model by its hub id: from the cache, offline, as on a host without network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from oddsmill.schemas.errors import Refused
from oddsmill.train.weights.hub import find_model
from tests.pipeline.hub_server import FakeHub
from tests.train.decoders import TINY

ROOT = Path(__file__).parents[3]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached_model(tmp_path, monkeypatch):
    """The hub's cache as huggingface_hub lays it out, with one model in it."""
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(TINY))
    refs = tmp_path / "models--org--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return snapshot


def test_a_cached_model_is_found_by_its_id_and_revision(cached_model):
    assert find_model("org/tiny", None) == cached_model
    assert find_model("org/tiny", COMMIT) == cached_model


def test_a_download_brings_what_is_read_and_no_more_with_the_token_and_is_there_offline(tmp_path):
    """In processes of their own: huggingface_hub reads its environment once."""
    repository = tmp_path / "repository"
    (repository / "onnx").mkdir(parents=True)
    wanted = {"config.json", "model-00001-of-00001.safetensors", "model.safetensors.index.json", "tokenizer.json"}
    for name in {*wanted, "pytorch_model.bin", "consolidated.safetensors", "onnx/model.safetensors", "modeling.py"}:
        (repository / name).write_text(name)
    hub = FakeHub(repository, "org/name", kind="models")
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "secret"}

    def find(**variables):
        code = "from oddsmill.train.weights.hub import find_model; print(find_model('org/name', None))"
        found = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment | variables, capture_output=True, text=True
        )
        assert found.returncode == 0, found.stderr
        return Path(found.stdout.strip())

    folder = find()
    assert {path.name for path in folder.rglob("*") if path.is_file()} == wanted
    assert {token for path, token in hub.tokens.items() if "org/name" in path} == {"Bearer secret"}
    hub.shutdown()
    hub.server_close()
    assert find(HF_HUB_OFFLINE="1") == folder


def test_what_is_neither_a_folder_nor_on_the_hub_is_refused(cached_model, tmp_path):
    with pytest.raises(Refused, match=r"org/other.*the hub does not give it"):
        find_model("org/other", None)
    with pytest.raises(Refused, match="the hub does not give it"):
        find_model("org/tiny", "no-such-branch")
    with pytest.raises(Refused, match="not a hub id such as org/name"):
        find_model("./nowhere", None)
    with pytest.raises(Refused, match="the hub does not give it"):
        find_model("org/-a--b..c", None)
    with pytest.raises(Refused, match="is a file; give the folder"):
        find_model(str(cached_model / "config.json"), None)
    with pytest.raises(Refused, match="has no revisions"):
        find_model(str(cached_model), "main")
