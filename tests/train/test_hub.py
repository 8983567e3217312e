"""A model by its hub id: from the cache, offline, as on a host without network."""

import json

import pytest
from huggingface_hub import constants

from schemas.errors import Refused
from tests.train.decoders import TINY
from train.hub import find_model

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


def test_what_is_neither_a_folder_nor_on_the_hub_is_refused(cached_model, tmp_path):
    with pytest.raises(Refused, match=r"org/other.*the hub does not give it"):
        find_model("org/other", None)
    with pytest.raises(Refused, match="the hub does not give it"):
        find_model("org/tiny", "no-such-branch")
    with pytest.raises(Refused, match="not a hub id such as org/name"):
        find_model("./nowhere", None)
    with pytest.raises(Refused, match="is a file; give the folder"):
        find_model(str(cached_model / "config.json"), None)
    with pytest.raises(Refused, match="has no revisions"):
        find_model(str(cached_model), "main")
