"""Shards are compared with their digests when a run first sees them, and again on request."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import oddsmill.train.data.verified_shards
from oddsmill.schemas.errors import Refused
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.dataset import Dataset
from oddsmill.train.data.verified_shards import read_verified_shards, verify_shards
from oddsmill.train.prepare import prepare
from tests.datasets import packed, random_pairs, write_dataset
from tests.train.decoders import TINY, VOCAB_SIZE


@pytest.fixture
def dataset(tmp_path):
    rows = packed(random_pairs(np.random.default_rng(0), 40, vocab_size=VOCAB_SIZE), 32)
    sizes = {"row_length": 32, "vocab_size": VOCAB_SIZE, "shards": 2}
    return Dataset(str(tmp_path / "data"), write_dataset(tmp_path / "data", {"train": rows}, **sizes))


@pytest.fixture
def hashed(monkeypatch):
    """The names of the shards that were read, in order."""
    names, original = [], oddsmill.train.data.verified_shards.file_sha256
    monkeypatch.setattr(
        oddsmill.train.data.verified_shards,
        "file_sha256",
        lambda path: names.append(Path(path).name) or original(path),
    )
    return names


FIRST, SECOND = "train-00000-of-00002.arrayrecord", "train-00001-of-00002.arrayrecord"


def alter(dataset, name, *, keep_time=False):
    path = Path(dataset.folder) / name
    before, content = path.stat(), path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_start_reads_only_shards_that_it_has_not_seen_as_they_are(dataset, hashed, tmp_path):
    verified = verify_shards([dataset, dataset], {})
    assert hashed == [FIRST, SECOND]
    (tmp_path / "verified.json").write_text(json.dumps(verified))
    verified = read_verified_shards(tmp_path / "verified.json")
    assert verify_shards([dataset], verified) == verified and len(hashed) == 2
    os.utime(Path(dataset.folder) / SECOND)
    assert verify_shards([dataset], verified) != verified and hashed[2:] == [SECOND]


def test_an_altered_shard_is_refused_at_a_first_and_at_a_later_start(dataset):
    verified = verify_shards([dataset], {})
    alter(dataset, SECOND)
    for known in ({}, verified):
        with pytest.raises(Refused, match=f"{SECOND} was altered: its sha256 is not the manifest's"):
            verify_shards([dataset], known)
    with open(Path(dataset.folder) / FIRST, "ab") as file:
        file.write(b"x")
    (Path(dataset.folder) / SECOND).unlink()
    with pytest.raises(Refused, match=rf"{FIRST} has \d+ bytes, the manifest says \d+; .*{SECOND} is missing"):
        verify_shards([dataset], verified)


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1}', "{"])
def test_a_damaged_memory_is_none(tmp_path, content):
    (tmp_path / "verified.json").write_text(content)
    assert read_verified_shards(tmp_path / "verified.json") == {}
    assert read_verified_shards(tmp_path / "nowhere.json") == {}


def test_several_processes_share_the_reading_and_all_refuse_what_one_finds(dataset, hashed, monkeypatch):
    alter(dataset, FIRST)
    monkeypatch.setattr("jax.process_count", lambda: 2)
    messages = []
    for process, name in enumerate((FIRST, SECOND)):
        monkeypatch.setattr("jax.process_index", lambda process=process: process)
        monkeypatch.setattr(
            oddsmill.train.data.verified_shards, "gather_bytes", lambda message: messages.append(message) or messages
        )
        with pytest.raises(Refused, match=f"{FIRST} was altered"):
            verify_shards([dataset], {})
        assert hashed.pop() == name and not hashed


def test_a_shard_that_keeps_its_size_and_time_is_read_again_on_request(dataset, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY))

    def prepared(**settings):
        model = ModelConfig(config=str(tmp_path / "config.json"))
        return prepare(TrainConfig(data=dataset.folder, run_dir=str(tmp_path / "run"), model=model, **settings))

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "verified_shards.json").write_text(json.dumps(prepared().verified_shards))
    alter(dataset, FIRST, keep_time=True)
    prepared()
    with pytest.raises(Refused, match=f"{FIRST} was altered"):
        prepared(verify_shards=True)
