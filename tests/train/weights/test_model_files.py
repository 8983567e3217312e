"""The files of a model: found by hub id from the cache, offline, as on a host without network; and loaded."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from huggingface_hub import constants

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import file_sha256
from oddsmill.train.config.devices import MeshConfig
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.parallel.sharding import make_mesh, param_shardings
from oddsmill.train.weights.huggingface import save_params
from oddsmill.train.weights.model_files import check_tokenizer, find_model, load_decoder, read_model_files
from tests.pipeline.hub_server import FakeHub
from tests.train.decoders import TINY, decoder_config, split_decoder

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
    assert find_model(ModelConfig(path="org/tiny")) == cached_model
    assert find_model(ModelConfig(path="org/tiny", revision=COMMIT)) == cached_model


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
        code = (
            "from oddsmill.train.config.model import ModelConfig\n"
            "from oddsmill.train.weights.model_files import find_model\n"
            "print(find_model(ModelConfig(path='org/name')))"
        )
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
        find_model(ModelConfig(path="org/other"))
    with pytest.raises(Refused, match="the hub does not give it"):
        find_model(ModelConfig(path="org/tiny", revision="no-such-branch"))
    with pytest.raises(Refused, match="not a hub id such as org/name"):
        find_model(ModelConfig(path="./nowhere"))
    with pytest.raises(Refused, match="the hub does not give it"):
        find_model(ModelConfig(path="org/-a--b..c"))
    with pytest.raises(Refused, match="is a file; give the folder"):
        find_model(ModelConfig(path=str(cached_model / "config.json")))
    with pytest.raises(Refused, match="has no revisions"):
        find_model(ModelConfig(path=str(cached_model), revision="main"))


def test_a_decoder_is_loaded_in_the_dtypes_asked_for_where_the_table_puts_it(tmp_path):
    config = decoder_config()
    params = split_decoder(config)[1]
    save_params(params, tmp_path, num_layers=config.num_hidden_layers)
    mesh = make_mesh(MeshConfig())
    definition, loaded = load_decoder(tmp_path, config, mesh, param_dtype="bfloat16", compute_dtype="float32")
    expected = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, loaded, expected)))
    shardings = param_shardings(expected, mesh)
    assert all(jax.tree.leaves(jax.tree.map(lambda leaf, place: leaf.sharding == place, loaded, shardings)))
    tokens = jnp.ones((1, 4), jnp.int32)
    assert nnx.merge(definition, loaded)(tokens, tokens, tokens + 3).dtype == jnp.float32


def test_dropout_of_the_config_is_kept_only_where_it_is_asked_for(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**TINY, "attention_dropout": 0.5}))
    found = read_model_files(path, disable_dropout=True)
    assert found.decoder_config.attention_dropout == 0.0 and found.hf_config["attention_dropout"] == 0.5
    assert found.folder == tmp_path
    assert read_model_files(tmp_path, disable_dropout=False).decoder_config.attention_dropout == 0.5


def manifest_with(tokenizer_sha256, vocab_size):
    tokenizer = SimpleNamespace(vocab_size=vocab_size, sha256={"tokenizer.json": tokenizer_sha256})
    return SimpleNamespace(tokenizer=tokenizer)


def test_rows_of_another_tokenizer_or_a_larger_vocabulary_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    model = read_model_files(tmp_path, disable_dropout=True)
    size = model.decoder_config.vocab_size
    check_tokenizer(manifest_with("a", size), model, data="rows")
    with pytest.raises(Refused, match=f"rows was made with a vocabulary of {size + 1}, the model has {size}"):
        check_tokenizer(manifest_with("a", size + 1), model, data="rows")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(Refused, match="rows was made with another tokenizer"):
        check_tokenizer(manifest_with("a", size), model, data="rows")
    check_tokenizer(manifest_with(file_sha256(tmp_path / "tokenizer.json"), size), model, data="rows")
