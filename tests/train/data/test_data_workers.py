"""Worker processes of the loader: the same batches, positions and errors as without, and none is left behind."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from oddsmill.schemas.errors import Refused, RunFailed
from oddsmill.schemas.manifest import file_sha256, read_manifest
from oddsmill.schemas.record import encode_row, make_row
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.dataset import Dataset
from oddsmill.train.data.loader import TrainBatches, train_batches
from oddsmill.train.data.shard_watch import ShardWatch
from tests.datasets import packed, random_pairs, write_dataset

VOCAB_SIZE, ROW_LENGTH, ROWS_PER_STEP = 40, 24, 4
BATCHES = 7  # more than an epoch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "rows"
    rows = packed(random_pairs(np.random.default_rng(0), 40, vocab_size=VOCAB_SIZE), ROW_LENGTH)[:18]
    write_dataset(folder, {"train": rows}, row_length=ROW_LENGTH, vocab_size=VOCAB_SIZE, shards=3)
    return str(folder)


def batches_of(folder: str, num_workers: int, process_index: int = 0, process_count: int = 1) -> TrainBatches:
    return train_batches(
        folder, read_manifest(folder), rows_per_step=ROWS_PER_STEP, shuffle=True, seed=3, num_workers=num_workers,
        empty_rows=1, process_index=process_index, process_count=process_count,
    )  # fmt: skip


def take(batches, count):
    return [{name: array.tolist() for name, array in batch.items()} for batch in itertools.islice(batches, count)]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def all_gone(pids) -> bool:
    """Within ten seconds."""
    for _ in range(100):
        if not any(map(is_alive, pids)):
            return True
        time.sleep(0.1)
    return False


def with_a_damaged_record(folder: Path, *, vocab_size: int) -> str:
    """A dataset whose fifth record is none, with a manifest that does not know."""
    rows = packed(random_pairs(np.random.default_rng(0), 90, vocab_size=vocab_size), ROW_LENGTH)
    manifest = write_dataset(folder, {"train": rows}, row_length=ROW_LENGTH, vocab_size=vocab_size)
    (shard,) = manifest.splits["train"].shards
    writer = ArrayRecordWriter(str(folder / shard.name), "group_size:1")
    for index, pairs in enumerate(rows):
        row = make_row(pairs, row_length=ROW_LENGTH, pad_id=0, vocab_size=vocab_size)
        writer.write(b"no record" if index == 4 else encode_row(row))
    writer.close()
    changed = replace(shard, bytes=os.path.getsize(folder / shard.name), sha256=file_sha256(folder / shard.name))
    manifest = replace(manifest, splits={"train": replace(manifest.splits["train"], shards=[changed])})
    (folder / "manifest.json").write_text(manifest.to_json())
    return str(folder)


def test_two_workers_give_the_batches_and_the_positions_of_none(folder):
    """Also in the second of two processes of a run, from a position saved without workers, over an epoch's end."""
    for share, start in (((0, 1), 0), ((1, 2), 2)):
        with closing(batches_of(folder, 0, *share)) as plain, closing(batches_of(folder, 2, *share)) as batches:
            take(plain, start)
            batches.set_state(plain.get_state())
            for _ in range(start, BATCHES):
                assert take(batches, 1) == take(plain, 1)
                assert batches.get_state() == plain.get_state()
            assert len(multiprocessing.active_children()) == 2
        assert not multiprocessing.active_children()


def child(connection, folder, num_workers, share, state, count):
    """Takes batches from a position on, tells them and the position after them, and waits to be killed."""
    batches = batches_of(folder, num_workers, *share)
    if state is not None:
        batches.set_state(state)
    taken = take(batches, count)
    connection.send((taken, batches.get_state(), [process.pid for process in multiprocessing.active_children()]))
    time.sleep(3600)


def take_and_be_killed(folder, num_workers, share, state, count):
    """(the batches, the position) of a process that was killed after them, whose workers must be gone then."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=child, args=(theirs, folder, num_workers, share, state, count))
    process.start()
    theirs.close()
    taken, state, workers = ours.recv()
    assert len(workers) == num_workers and all(map(is_alive, workers))
    process.kill()
    process.join()
    assert all_gone(workers)
    return taken, state


def test_workers_end_with_a_process_that_is_killed(folder):
    assert take_and_be_killed(folder, 2, (0, 1), None, 1)[0] == take(batches_of(folder, 0), 1)


@pytest.mark.slow
@pytest.mark.parametrize("share", [(0, 1), (0, 2), (1, 2)])
def test_a_kill_at_every_position_changes_nothing_whatever_the_number_of_workers(folder, share):
    uninterrupted = take(batches_of(folder, 0, *share), BATCHES)
    for position, (before, after) in zip(range(1, BATCHES), itertools.cycle([(2, 0), (1, 3), (0, 2)]), strict=False):
        first, state = take_and_be_killed(folder, before, share, None, position)
        second, _ = take_and_be_killed(folder, after, share, state, BATCHES - position)
        assert first + second == uninterrupted


def failure(folder, manifest, num_workers):
    batches = train_batches(folder, manifest, rows_per_step=2, shuffle=False, seed=0, num_workers=num_workers)
    taken = []
    with closing(batches), pytest.raises(RunFailed) as error, ShardWatch(Dataset(folder, manifest)).explain_errors():
        taken.extend(batch["pair_ids"].tolist() for batch in batches)
    return str(error.value), taken


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    return with_a_damaged_record(tmp_path_factory.mktemp("damaged") / "rows", vocab_size=VOCAB_SIZE)


def test_an_error_in_a_worker_comes_out_as_it_does_without(folder, damaged):
    manifest = read_manifest(folder)
    train = manifest.splits["train"]
    fewer = replace(manifest, splits={"train": replace(train, max_pairs_per_row=train.max_pairs_per_row - 1)})
    for where, declared, message in (
        (damaged, read_manifest(damaged), "not an Arrow IPC stream"),
        (folder, fewer, "pairs, at most"),
    ):
        plain = failure(where, declared, 0)
        assert failure(where, declared, 2) == plain and message in plain[0]
        assert not multiprocessing.active_children()


def test_signals_are_the_main_process_s_and_a_worker_that_is_killed_is_told(folder):
    with closing(batches_of(folder, 1)) as batches:
        found = take(batches, 1)
        (worker,) = multiprocessing.active_children()
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker.pid, number)
        found += take(batches, 20)
        assert found == take(batches_of(folder, 0), 21) and worker.is_alive()
        worker.kill()
        with pytest.raises(RunFailed, match=r"a process of --dataloader_num_workers=1 ended .* exit code -9"):
            take(batches, 20)


def test_what_a_worker_imports_is_no_trainer_and_takes_no_device(folder):
    code = f"""
import sys, jax, oddsmill.train.data.loader
from oddsmill.schemas.manifest import read_manifest
loader = oddsmill.train.data.loader
next(loader.train_batches({folder!r}, read_manifest({folder!r}), rows_per_step=2, shuffle=True, seed=0))
assert not jax._src.xla_bridge.backends_are_initialized()
heavy = ("oddsmill.train.", "oddsmill.pipeline.", "flax.", "optax.", "apache_beam.")
found = {{name for name in sys.modules if name.startswith(heavy)}}
assert found == {{"oddsmill.train.data" + name for name in ("", ".loader", ".shard_records")}}, found
"""
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=True)


def test_a_number_of_workers_below_zero_is_refused():
    with pytest.raises(Refused, match="--dataloader_num_workers=-1: must not be negative"):
        TrainConfig(data="d", run_dir="r", model=ModelConfig(config="c"), dataloader_num_workers=-1)
