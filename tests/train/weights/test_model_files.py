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

from oddsmill.schemas.chat.identity import ids_sha256
from oddsmill.schemas.errors import Refused
from oddsmill.train.config.devices import MeshConfig
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.parallel.sharding import make_mesh, param_shardings
from oddsmill.train.weights.huggingface import save_params
from oddsmill.train.weights.model_files import check_ids, check_tokenizer, find_model, load_decoder, read_model_files
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


def test_rows_of_another_tokenizer_or_with_ids_that_the_model_lacks_are_refused(tmp_path, make_tokenizer):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    model = read_model_files(tmp_path, disable_dropout=True)
    size = model.decoder_config.vocab_size
    rows = make_tokenizer(tmp_path / "rows" / "tokenizer").parent
    # The tokenizer has more ids than the model; those of the rows decide.
    tokenizer = SimpleNamespace(vocab_size=size + 9, ids_sha256=ids_sha256(rows / "tokenizer"), sha256={})
    manifest = SimpleNamespace(tokenizer=tokenizer, max_token_id=size - 1)
    check_tokenizer(manifest, model, data=str(rows))
    with pytest.raises(Refused, match=f"rows holds the token id {size}, and the model has ids below {size}"):
        check_tokenizer(SimpleNamespace(tokenizer=tokenizer, max_token_id=size), model, data=str(rows))
    content = json.loads((rows / "tokenizer" / "tokenizer.json").read_text())
    named = {**content, "added_tokens": [*content["added_tokens"], {"id": size, "content": "<tag>"}]}
    (tmp_path / "named" / "tokenizer").mkdir(parents=True)
    (tmp_path / "named" / "tokenizer" / "tokenizer.json").write_text(json.dumps(named))
    with pytest.raises(Refused, match=rf"named holds the token id {size} \('<tag>'\), and the model"):
        check_ids(SimpleNamespace(tokenizer=tokenizer, max_token_id=size), model, data=str(tmp_path / "named"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(content, indent=1))  # saved again
    check_tokenizer(manifest, model, data=str(rows))
    content["model"]["merges"].pop()
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(Refused, match=r"rows was made with another tokenizer .*; they differ in: merges\. Run the"):
        check_tokenizer(manifest, model, data=str(rows))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(Refused, match=r"rows was made with another tokenizer .*not a tokenizer\.json"):
        check_tokenizer(manifest, model, data=str(rows))
