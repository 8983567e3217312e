"""The loader: every row once an epoch, the same global order for any number of processes, exact resume."""

import itertools

import numpy as np
import pytest

from oddsmill.train.data.loader import eval_batches, step_pair_ids, train_batches
from tests.datasets import packed, random_pairs, write_dataset

VOCAB_SIZE, ROW_LENGTH, ROWS_PER_STEP = 40, 24, 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "rows"
    rng = np.random.default_rng(0)
    rows = packed(random_pairs(rng, 40, vocab_size=VOCAB_SIZE), ROW_LENGTH)
    manifest = write_dataset(
        folder, {"train": rows, "eval": rows[:7]}, row_length=ROW_LENGTH, vocab_size=VOCAB_SIZE, shards=3
    )
    return str(folder), manifest, rows


def batches_of(dataset, *, shuffle=True, seed=3, **share):
    folder, manifest, _ = dataset
    return train_batches(folder, manifest, rows_per_step=ROWS_PER_STEP, shuffle=shuffle, seed=seed, **share)


def first_ids(batch):
    return batch["pair_ids"][:, 0].tolist()


def take_ids(batches, steps):
    return [first_ids(batch) for batch in itertools.islice(batches, steps)]


def test_unshuffled_rows_come_in_stored_order_across_shards(dataset):
    rows = dataset[2]
    found = list(itertools.chain(*take_ids(batches_of(dataset, shuffle=False), 3)))
    assert found == [row[0].id for row in rows][:12]


def test_every_epoch_holds_every_row_once_and_in_its_own_order(dataset):
    rows = dataset[2]
    epochs = 4
    steps = epochs * len(rows) // ROWS_PER_STEP
    order = list(itertools.chain(*take_ids(batches_of(dataset), steps)))
    whole = [order[start : start + len(rows)] for start in range(0, len(order) - len(rows) + 1, len(rows))]
    assert all(sorted(epoch) == sorted(row[0].id for row in rows) for epoch in whole)
    assert len({tuple(epoch) for epoch in whole}) == len(whole)


@pytest.mark.parametrize("rows_per_step", [1, 3])
def test_a_step_may_hold_any_number_of_rows(dataset, rows_per_step):
    folder, manifest, rows = dataset
    batches = train_batches(folder, manifest, rows_per_step=rows_per_step, shuffle=False, seed=0)
    found = list(itertools.chain(*take_ids(batches, 6)))
    assert found == [row[0].id for row in [*rows, *rows]][: 6 * rows_per_step]


def test_the_order_follows_the_seed(dataset):
    assert take_ids(batches_of(dataset, seed=3), 3) == take_ids(batches_of(dataset, seed=3), 3)
    assert take_ids(batches_of(dataset, seed=3), 3) != take_ids(batches_of(dataset, seed=4), 3)


def test_a_saved_position_gives_the_same_rest_at_every_step(dataset):
    uninterrupted = take_ids(batches_of(dataset), 12)
    batches = batches_of(dataset)
    for step in range(12):
        state = batches.get_state()
        resumed = batches_of(dataset)
        resumed.set_state(state)
        assert take_ids(resumed, 12 - step) == uninterrupted[step:]
        next(batches)


def test_processes_share_the_rows_of_one_process(dataset):
    """Two processes read disjoint halves of each global batch, and a state of one serves the other."""
    whole = take_ids(batches_of(dataset), 6)
    halves = []
    for index in range(2):
        batches = batches_of(dataset, process_index=index, process_count=2)
        halves.append(take_ids(batches, 6))
        state = batches.get_state()
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == [sorted(batch) for batch in whole]
    one = batches_of(dataset)
    one.set_state(state)
    assert take_ids(one, 1) == take_ids(batches_of(dataset), 7)[6:]


@pytest.mark.parametrize("batch_size", [2, 4, 8])
def test_evaluation_takes_each_row_once_whatever_the_batch_size(dataset, batch_size):
    folder, manifest, rows = dataset
    found = []
    for batch in eval_batches(folder, manifest, split="eval", batch_size=batch_size, process_index=0, process_count=1):
        assert batch["inputs"].shape == (batch_size, ROW_LENGTH)
        real = batch["branch"].any(1)
        assert not batch["pair_ids"][~real].any()
        found += batch["pair_ids"][real][:, 0].tolist()
    assert found == [row[0].id for row in rows[:7]]


def test_evaluation_rows_are_shared_out_among_processes(dataset):
    folder, manifest, rows = dataset
    found = []
    for index in range(2):
        for batch in eval_batches(folder, manifest, split="eval", batch_size=4, process_index=index, process_count=2):
            assert len(batch["inputs"]) == 2
            found += batch["pair_ids"][batch["branch"].any(1)][:, 0].tolist()
    assert sorted(found) == [row[0].id for row in rows[:7]]


def test_the_pairs_of_a_step_are_known_without_the_steps_before(dataset):
    folder, manifest, _ = dataset
    for step, batch in enumerate(itertools.islice(batches_of(dataset), 12), start=1):
        ids = step_pair_ids(folder, manifest, rows_per_step=ROWS_PER_STEP, shuffle=True, seed=3, step=step)
        assert ids.tolist() == batch["pair_ids"].tolist()
