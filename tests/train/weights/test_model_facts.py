"""Copies of a model have the same facts; another model of the same shapes does not."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from oddsmill.schemas.errors import Refused
from oddsmill.train.weights import model_facts as module
from oddsmill.train.weights.model_facts import model_facts, sampled_digest


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"rope_theta": 1e4, "vocab_size": 48}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("a card")
    save_file({"w": np.arange(1000, dtype=np.float32)}, folder / "model.safetensors")
    return folder


def test_a_copy_elsewhere_is_the_same_model(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "README.md").write_text("another card")
    assert model_facts(copy) == model_facts(folder)
    assert model_facts(folder / "config.json") == {"config.json: rope_theta": 1e4, "config.json: vocab_size": 48}


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_what_differs_is_named(folder, name):
    before = model_facts(folder)
    path = folder / name
    path.write_bytes(path.read_bytes().replace(b"10000.0", b"50000.0").replace(b"{}", b"[]").replace(b"\0", b"\1"))
    after = model_facts(folder)
    [different] = [fact for fact in before if before[fact] != after[fact]]
    assert different == {"config.json": "config.json: rope_theta"}.get(name, f"the model's {name}")


def test_other_weights_of_a_large_file_are_seen_in_samples_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_READ_IN_FULL", 1 << 20)
    rng = np.random.default_rng(0)
    first, second = tmp_path / "a", tmp_path / "b"
    content = rng.bytes(3 << 20)
    first.write_bytes(content)
    # A header and embeddings in common, all layers others.
    second.write_bytes(content[: 2 << 20] + rng.bytes(1 << 20))
    assert sampled_digest(first) == sampled_digest(first) != sampled_digest(second)


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"config\.json"):
        model_facts(tmp_path)
