"""Shards are compared with their digests when a run first sees them, and again on request."""

import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

import oddsmill.train.data.verified_shards
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import file_sha256
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.dataset import Dataset
from oddsmill.train.data.verified_shards import read_verified_shards, verify_shards
from oddsmill.train.prepare import prepare
from tests.datasets import packed, random_pairs, write_dataset
from tests.schemas.test_dataset_files import few_files
from tests.train.decoders import TINY, VOCAB_SIZE


@pytest.fixture
def dataset(tmp_path):
    rows = packed(random_pairs(np.random.default_rng(0), 40, vocab_size=VOCAB_SIZE), 32)
    sizes = {"row_length": 32, "vocab_size": VOCAB_SIZE, "shards": 2}
    return Dataset(str(tmp_path / "data"), write_dataset(tmp_path / "data", {"train": rows}, **sizes))


@pytest.fixture
def hashed(monkeypatch):
    """The names of the shards that were read, in order."""
    names, original = [], oddsmill.train.data.verified_shards.problem_of_shard
    monkeypatch.setattr(
        oddsmill.train.data.verified_shards,
        "problem_of_shard",
        lambda path, *described: names.append(Path(path).name) or original(path, *described),
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
    assert sorted(hashed) == [FIRST, SECOND]
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


@pytest.fixture
def of_processes(monkeypatch):
    """Runs a function of the number of a process in two threads that take each other for the processes of a run."""
    local, barrier, messages = threading.local(), threading.Barrier(2), {}

    def gather(message):
        messages[local.index] = message
        barrier.wait(10)
        found = [messages[0], messages[1]]
        barrier.wait(10)
        return found

    def run(function):
        def of_process(index):
            local.index = index
            return function(index)

        with ThreadPoolExecutor(2) as threads:
            return [future.result() for future in [threads.submit(of_process, index) for index in (0, 1)]]

    module = oddsmill.train.data.verified_shards
    monkeypatch.setattr(module, "gather_bytes", gather)
    monkeypatch.setattr(module, "num_processes", lambda: 2)
    monkeypatch.setattr(module, "process_index", lambda: local.index)
    return run


def test_of_several_processes_each_reads_a_share_and_what_one_knows_none_reads(dataset, hashed, of_processes):
    first, second = of_processes(lambda index: verify_shards([dataset], {}))
    assert first == second and sorted(hashed) == [FIRST, SECOND]
    of_processes(lambda index: verify_shards([dataset], first if index else {}))
    assert len(hashed) == 2


def test_processes_with_copies_of_their_own_read_all_of_them(dataset, hashed, of_processes, tmp_path):
    copy = Dataset(str(shutil.copytree(dataset.folder, tmp_path / "copy")), dataset.manifest)
    known = as_verified(dataset)
    hashed.clear()
    os.utime(Path(copy.folder) / SECOND)
    of_processes(lambda index: verify_shards([copy if index else dataset], {} if index else known))
    assert sorted(hashed) == [FIRST, SECOND]  # of the copy


def as_verified(dataset):
    return {
        os.path.abspath(path): (path.stat().st_size, path.stat().st_mtime_ns, shard.sha256)
        for shard in dataset.manifest.splits["train"].shards
        for path in [Path(dataset.folder) / shard.name]
    }


def test_all_processes_refuse_what_one_finds(dataset, of_processes):
    alter(dataset, FIRST)

    def refusal(index):
        with pytest.raises(Refused, match=f"{FIRST} was altered") as error:
            verify_shards([dataset], {})
        return str(error.value)

    assert len(set(of_processes(refusal))) == 1


def test_of_very_many_damaged_shards_the_first_are_named(tmp_path):
    rows = packed(random_pairs(np.random.default_rng(0), 40, vocab_size=VOCAB_SIZE), 32)
    sizes = {"row_length": 32, "vocab_size": VOCAB_SIZE, "shards": 13}
    dataset = Dataset(str(tmp_path / "data"), write_dataset(tmp_path / "data", {"train": rows}, **sizes))
    for shard in dataset.manifest.splits["train"].shards:
        alter(dataset, shard.name)
    with pytest.raises(
        Refused, match=r"train-00009-of-00013\.arrayrecord was altered.*; and so 3 more\. Bring"
    ) as error:
        verify_shards([dataset], {})
    assert str(error.value).count("altered") == 10


def test_a_shard_for_which_no_file_is_left_is_not_told_as_altered(dataset):
    with few_files(0), pytest.raises(Refused, match=f"{FIRST} cannot be read .Too many open files.") as error:
        verify_shards([dataset], {})
    assert "altered" not in str(error.value)


def test_a_long_comparison_says_how_far_it_is(dataset, monkeypatch, caplog):
    monkeypatch.setattr(oddsmill.train.data.verified_shards, "_PROGRESS_S", 0)
    caplog.set_level("INFO", "oddsmill")
    verified = verify_shards([dataset], {})
    assert caplog.messages[-1] == "comparing 2 new shards with their digests, once: 100%"
    caplog.clear()
    verify_shards([dataset], verified)
    assert not caplog.messages


def test_an_interrupted_comparison_does_not_read_the_rest_first(dataset, hashed, monkeypatch):
    module = oddsmill.train.data.verified_shards
    monkeypatch.setattr(module, "_PROGRESS_S", 0)
    monkeypatch.setattr(module, "_THREADS", 1)

    class Interrupted:
        def info(self, message):
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "log", Interrupted())
    (shard, _) = dataset.manifest.splits["train"].shards
    slow = {f"{number}.arrayrecord": (shard, dataset.manifest) for number in range(99)}
    monkeypatch.setattr(module, "problem_of_shard", lambda path, *_: hashed.append(path) or time.sleep(0.01))
    with pytest.raises(KeyboardInterrupt):
        module._altered(slow)
    assert len(hashed) < 9


def test_a_record_that_decompresses_to_much_is_refused_though_the_manifest_has_its_digest(dataset):
    with pytest.raises(Refused, match=rf"{FIRST}: record 3 takes more than the 8,704 bytes of the largest row"):
        verify_shards([with_a_large_record(dataset, FIRST)], {})


def with_a_large_record(dataset, name):
    """The dataset of one who means harm: the digest of its manifest is that of a shard with a record of zeros."""
    path, shards = Path(dataset.folder) / name, dataset.manifest.splits["train"].shards
    writer = ArrayRecordWriter(str(path), "group_size:1,zstd:3")
    for record in (b"", b"", b"", bytes(1 << 20)):
        writer.write(record)
    writer.close()
    shards = [
        replace(shard, bytes=path.stat().st_size, sha256=file_sha256(path)) if shard.name == name else shard
        for shard in shards
    ]
    splits = {"train": replace(dataset.manifest.splits["train"], shards=shards)}
    return replace(dataset, manifest=replace(dataset.manifest, splits=splits))


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
