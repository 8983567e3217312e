"""Records of many shards are read with few open files."""

import os
import pickle
import random
import threading
from pathlib import Path

import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from oddsmill.schemas.errors import RunFailed
from oddsmill.train.data import shard_records
from oddsmill.train.data.shard_records import ShardRecords, most_open_shards
from oddsmill.train.data.shard_watch import ShardWatch
from tests.schemas.test_dataset_files import few_files

SIZES = [3, 0, 1, 4, 0, 2] * 4


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    paths = []
    for shard, size in enumerate(SIZES):
        paths.append(str(tmp_path / f"{shard}.arrayrecord"))
        writer = ArrayRecordWriter(paths[-1], "group_size:1")
        for record in range(size):
            writer.write(f"{shard}, {record}".encode())
        writer.close()
    return paths


def open_shards(paths: list[str]) -> int:
    found = (os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd"))
    return sum(path in paths for path in found)


RECORDS = [f"{shard}, {record}".encode() for shard, size in enumerate(SIZES) for record in range(size)]


def test_records_come_in_stored_order_whatever_is_open(paths: list[str]):
    for most_open in (1, 2, 100):
        source = ShardRecords(paths, SIZES, most_open=most_open)
        assert [source[index] for index in range(len(source))] == RECORDS
        order = random.Random(0).choices(range(len(source)), k=200)
        assert [source[index] for index in order] == [RECORDS[index] for index in order]
        assert open_shards(paths) == min(most_open, sum(size > 0 for size in SIZES))
        for index in (-1, len(source)):
            with pytest.raises(IndexError):
                source[index]
    del source
    assert open_shards(paths) == 0


def test_what_a_worker_gets_opens_its_own(paths: list[str]):
    source = ShardRecords(paths, SIZES, most_open=2)
    source[0]
    copy = pickle.loads(pickle.dumps(source))
    assert open_shards(paths) == 1
    assert [copy[index] for index in range(len(copy))] == RECORDS


def test_threads_may_read_what_another_one_closes(paths: list[str]):
    source, wrong = ShardRecords(paths, SIZES, most_open=1), []

    def read(seed: int) -> None:
        for index in random.Random(seed).choices(range(len(source)), k=300):
            if source[index] != RECORDS[index]:
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and open_shards(paths) == 1


def test_a_shard_that_holds_other_records_than_it_should_is_named(paths: list[str]):
    source = ShardRecords(paths, [2, *SIZES[1:]])
    with pytest.raises(ValueError, match=r"/0\.arrayrecord: it holds 3 records, the manifest says 2"):
        source[0]


@pytest.mark.parametrize(("soft", "most_open"), [(256, 32), (1024, 128), (1 << 20, 512), (4, 1), (-1, 512)])
def test_an_eighth_of_the_files_of_a_process_are_shards(monkeypatch: pytest.MonkeyPatch, soft: int, most_open: int):
    monkeypatch.setattr(shard_records.resource, "getrlimit", lambda _: (soft, -1))
    assert most_open_shards() == most_open


def test_too_many_open_files_are_not_told_as_damage(paths: list[str]):
    source = ShardRecords(paths, SIZES)
    problem = r"too many files are open: \d+ are allowed here \(ulimit -n\)"
    with few_files(0), pytest.raises(RunFailed, match=problem), ShardWatch().explain_errors():
        source[0]
