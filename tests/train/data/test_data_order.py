"""The digest of the pairs that a run has taken: what it tells apart, and what it must not."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import oddsmill.train.data.data_order
import oddsmill.train.data.loader
from oddsmill.schemas.errors import Refused
from oddsmill.train.__main__ import main
from oddsmill.train.data.data_order import DataOrder
from tests.datasets import packed, random_pairs, write_dataset
from tests.train.decoders import TINY, VOCAB_SIZE

STEPS, ROWS, PAIRS = 6, 8, 3


@pytest.fixture
def steps():
    """[STEPS, ROWS, PAIRS] ids; some slots are empty."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 2**64, (STEPS, ROWS, PAIRS), dtype=np.uint64)
    ids[:, ::3, 2] = 0
    return ids


def digest(steps, order=None):
    order = order or DataOrder()
    for ids in steps:
        order.add(order._step + 1, ids)
    return order.digest


def test_places_inside_a_step_do_not_count_and_all_else_does(steps):
    whole = digest(steps)
    rng = np.random.default_rng(1)
    assert digest(steps[:, rng.permutation(ROWS)]) == whole
    assert digest(np.pad(steps, ((0, 0), (0, 4), (0, 1)))) == whole  # rows and slots without a pair
    others = [steps[::-1], steps[1:], steps[[0, 0, *range(1, STEPS)]], steps.reshape(STEPS // 2, 2 * ROWS, PAIRS)]
    for step, row in ((0, 0), (STEPS - 1, ROWS - 1)):
        others.append(steps.copy())
        others[-1][step, row, 0] ^= np.uint64(1)
    swapped = steps.copy()
    swapped[0, 1], swapped[1, 1] = steps[1, 1], steps[0, 1]
    others.append(swapped)
    digests = [digest(other) for other in others]
    assert whole not in digests and len(set(digests)) == len(digests)


def test_sets_of_equal_sums_have_different_digests():
    first, second = (np.array([[pair, other]], np.uint64) for pair, other in ((1, 4), (2, 3)))
    assert digest([first]) != digest([second])


class Processes:
    """Processes that stop and wait at `gather_bytes`, as threads of one."""

    def __init__(self, monkeypatch, count):
        self._barrier, self._messages = threading.Barrier(count), [b""] * count
        self._local = threading.local()
        monkeypatch.setattr("jax.process_count", lambda: count)
        monkeypatch.setattr(oddsmill.train.data.data_order, "gather_bytes", self._gather)

    def _gather(self, message):
        self._messages[self._local.index] = message
        self._barrier.wait()
        messages = list(self._messages)
        self._barrier.wait()
        return messages

    def run(self, function):
        def one(index):
            self._local.index = index
            return function(index)

        with ThreadPoolExecutor(len(self._messages)) as pool:
            return list(pool.map(one, range(len(self._messages))))


def test_several_processes_have_the_digest_of_one_wherever_they_gather(steps, monkeypatch):
    """Four processes: the rows of each half are read by two of them, as along the mesh's axis `tensor`."""
    expected = digest(steps)

    def run(process):
        order, half = DataOrder(process // 2), slice(process // 2 * ROWS // 2, (process // 2 + 1) * ROWS // 2)
        for step, ids in enumerate(steps, 1):
            order.add(step, ids[half])
            assert order.after(step) is None
            if step in (2, 3, STEPS):
                order.gather()
                assert order.after(step) == order.digest
        return order.get_state()

    states = Processes(monkeypatch, 4).run(run)
    assert all(state == states[0] for state in states) and states[0]["digest"] == expected


def test_the_digest_is_known_of_the_newest_step_and_the_one_before(steps):
    order = DataOrder()
    for step, ids in enumerate(steps, 1):
        order.add(step, ids)
        assert order.after(step) == digest(steps[:step]) and order.after(step - 1) == digest(steps[: step - 1])
        assert order.after(step - 2) is None


def test_a_state_goes_on_to_the_same_digest(steps):
    first = DataOrder()
    digest(steps[:4], first)
    second = DataOrder()
    second.set_state(first.get_state(), 4, steps[3], where="here")
    assert digest(steps[4:], second) == digest(steps)


def test_another_order_than_that_of_the_checkpoint_is_refused(steps):
    order = DataOrder()
    digest(steps[:4], order)
    with pytest.raises(Refused, match="step 4: its last step took other pairs"):
        DataOrder().set_state(order.get_state(), 4, steps[4], where="checkpoints, step 4")


@pytest.mark.slow
def test_a_run_does_not_go_on_where_the_loader_gives_another_order(tmp_path, monkeypatch, capsys):
    """As another version of the library that shuffles would."""
    rows = packed(random_pairs(np.random.default_rng(0), 60, vocab_size=VOCAB_SIZE), 32)
    write_dataset(tmp_path / "data", {"train": rows}, row_length=32, vocab_size=VOCAB_SIZE)
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    arguments = ["run", f"--data={tmp_path / 'data'}", f"--model.config={tmp_path / 'config.json'}", "--max_steps=3"]
    arguments.append(f"--run_dir={tmp_path / 'run'}")
    assert main(arguments) == 0 and main(arguments) == 0
    original = oddsmill.train.data.loader.ordered_rows
    monkeypatch.setattr(
        oddsmill.train.data.loader, "ordered_rows", lambda *data, seed, **rest: original(*data, seed=seed + 1, **rest)
    )
    capsys.readouterr()
    assert main(arguments) == 2
    assert "step 3: its last step took other pairs than the loader gives for it now" in capsys.readouterr().err
