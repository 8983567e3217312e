"""Checkpoints on disk: which stay, what a damaged one does, what a save that fails leaves."""

import resource
import shutil

import jax
import numpy as np
import pytest

from oddsmill.schemas.console import show_messages
from oddsmill.schemas.errors import Refused, RunFailed
from oddsmill.train.checkpoint.checkpoints import Checkpoints
from oddsmill.train.checkpoint.digests import digest
from oddsmill.train.data.data_order import DataOrder
from oddsmill.train.parallel.failures import Failure, ProcessLost

IDENTITY = {"beta": 0.1, "data": "abc"}


class Batches:
    """An iterator of which only the position counts."""

    def __init__(self, position: int = 0):
        self.position = position

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


def state_of(step: int, size: int = 5000):
    values = jax.random.normal(jax.random.key(step), (size,))
    return {"params": {"w": values}, "opt_state": (values * 2, jax.numpy.int32(step)), "step": jax.numpy.int32(step)}


def pairs_of(step):
    """The ids of the pairs that a step took: one row of one pair."""
    return np.array([[step]], np.uint64)


def order_at(step):
    order = DataOrder()
    order.add(step, pairs_of(step))
    return order


def shapes():
    state = state_of(0)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)


def opened(folder, total=2, **changes):
    return Checkpoints(folder, identity=IDENTITY | changes, save_total_limit=total)


def save(checkpoints, step, best=None, state=None, notes=None, again=False):
    checkpoints.save(
        step,
        state or state_of(step),
        Batches(step),
        order_at(step),
        frozen_digest=None,
        notes=notes or {"at": step},
        best_step=best,
        again=again,
    )


def saved(folder, steps, best=None, total=2):
    with opened(folder, total) as checkpoints:
        for step in steps:
            save(checkpoints, step, best and best(step))


def restore(folder):
    batches, order = Batches(), DataOrder()
    with opened(folder) as checkpoints:
        checkpoints.check_identity()
        step, state, notes = checkpoints.restore(shapes(), batches, order, pair_ids_of=pairs_of, frozen_digest=None)
        assert digest(state) == digest(state_of(step)) and notes == {"at": step} and batches.position == step
        assert order.digest == order_at(step).digest
        # A step that was damaged can be saved again.
        save(checkpoints, 4)
    return step


def damage(folder, step, how):
    files = [path for path in (folder / str(step)).rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    if how == "a flipped bit":
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)
    elif how == "a file cut off":
        largest.write_bytes(content[: len(content) // 2])
    elif how == "a file of arrays missing":
        largest.unlink()
    elif how == "an altered character of its notes":
        strings = folder / str(step) / "meta" / "_strings.json"
        assert '"abc"' in strings.read_text()
        strings.write_text(strings.read_text().replace('"abc"', '"abd"'))
    else:
        shutil.rmtree(folder / str(step) / "meta")


def test_the_newest_is_gone_on_from(tmp_path):
    saved(tmp_path, [2, 4])
    assert restore(tmp_path) == 4


@pytest.mark.parametrize(
    "how",
    ["a flipped bit", "a file cut off", "a file of arrays missing", "no meta", "an altered character of its notes"],
)
def test_a_damaged_newest_falls_back_to_the_one_before_and_is_named(tmp_path, capsys, how):
    saved(tmp_path, [2, 4])
    damage(tmp_path, 4, how)
    show_messages()
    assert restore(tmp_path) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("warning: the checkpoint of step 4 is damaged (")
    assert line.endswith(f"it lies in {tmp_path / '4.damaged'} now, and the run goes on from that of step 2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4", "4.damaged"]
    assert restore(tmp_path) == 4  # saved again


def test_what_the_devices_say_is_no_damage(tmp_path, monkeypatch):
    """A whole checkpoint that does not fit the devices is not renamed."""
    saved(tmp_path, [2, 4])

    def load(self, step, wanted):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(Checkpoints, "_load", load)
    with opened(tmp_path) as checkpoints, pytest.raises(jax.errors.JaxRuntimeError):
        checkpoints.restore(shapes(), Batches(), DataOrder(), pair_ids_of=pairs_of, frozen_digest=None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4"]


def test_one_of_several_processes_that_cannot_read_says_so_and_does_not_go_back_alone(tmp_path, monkeypatch):
    saved(tmp_path, [2, 4])
    damage(tmp_path, 4, "a file cut off")
    with opened(tmp_path) as checkpoints:
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        with pytest.raises(RunFailed, match=r"process 0 cannot read the checkpoint of step 4 in .* rename 4 yourself"):
            checkpoints.restore(shapes(), Batches(), DataOrder(), pair_ids_of=pairs_of, frozen_digest=None)
        monkeypatch.undo()


def test_a_save_that_fails_because_another_process_did_tells_the_reason_of_that_one(tmp_path, monkeypatch):
    class Response:
        def result(self, timeout):
            raise ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer")

    failure = Failure(1, False, "its disk is full")
    monkeypatch.setattr("oddsmill.train.parallel.failures.find_failure", lambda: failure)
    with opened(tmp_path) as checkpoints:
        checkpoints._saving = 4, Response()
        with pytest.raises(ProcessLost, match="process 1 failed: its disk is full"):
            checkpoints.wait()


def test_a_save_that_fails_by_a_timeout_of_the_disk_is_told(tmp_path):
    class Response:
        def result(self, timeout):
            raise TimeoutError("[Errno 110] Connection timed out")

    with opened(tmp_path) as checkpoints:
        checkpoints._saving = 4, Response()
        checkpoints.check()  # may still be under way
        with pytest.raises(RunFailed, match=r"step 4 cannot be written .* Connection timed out"):
            checkpoints.wait()


def test_the_best_is_found_behind_a_damaged_newest(tmp_path):
    with opened(tmp_path, total=3) as checkpoints:
        for step in (2, 4, 6):
            save(checkpoints, step, best=2, notes={"best": {"step": 2}})
    damage(tmp_path, 6, "no meta")
    with opened(tmp_path, total=None) as checkpoints:
        assert checkpoints.find_step(None, best=True) == 2


def test_notes_that_changed_after_the_save_take_its_place(tmp_path):
    saved(tmp_path, [2, 4])
    with opened(tmp_path) as checkpoints:
        save(checkpoints, 4, notes={"best": {"step": 4}}, again=True)
        checkpoints.wait()
        assert checkpoints.find_step(None, best=True) == 4
    alone = tmp_path / "alone"
    saved(alone, [4])
    with opened(alone) as checkpoints:  # a run killed in between would have none
        save(checkpoints, 4, notes={"best": {"step": 2}}, again=True)
        assert checkpoints._saving is None


def test_reading_where_nothing_was_saved_makes_no_folder(tmp_path):
    with pytest.raises(Refused, match="has no checkpoint"):
        opened(tmp_path / "checkpoints", total=None)
    assert not list(tmp_path.iterdir())


def test_a_run_none_of_whose_checkpoints_can_be_read_is_not_begun_anew(tmp_path):
    saved(tmp_path, [2, 4])
    for step in (2, 4):
        damage(tmp_path, step, "a flipped bit")
    with pytest.raises(Refused, match=r"no checkpoint can be read \(step 4: .*; step 2: ") as refusal:
        restore(tmp_path)
    assert "another --run_dir" in str(refusal.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4"]


def test_other_settings_are_refused_by_name_also_behind_a_damaged_newest(tmp_path):
    saved(tmp_path, [2, 4])
    damage(tmp_path, 4, "no meta")
    with opened(tmp_path, beta=0.5) as checkpoints, pytest.raises(Refused, match=r"\(beta: 0\.1 -> 0\.5\)"):
        checkpoints.check_identity()


@pytest.mark.parametrize(("total", "kept"), [(1, ["4", "6"]), (2, ["4", "6"]), (3, ["4", "5", "6"])])
def test_the_best_stays_beside_the_newest(tmp_path, total, kept):
    saved(tmp_path, range(1, 7), best=lambda step: min(step, 4), total=total)
    assert sorted(path.name for path in tmp_path.iterdir()) == kept


def test_where_the_best_is_what_a_run_leaves_it_is_found(tmp_path):
    with opened(tmp_path) as checkpoints:
        for step in (2, 4):
            save(checkpoints, step, best=2, notes={"best": {"step": 2}})
        checkpoints.wait()
        found = [
            checkpoints.find_step(None),
            checkpoints.find_step(None, best=True),
            checkpoints.find_step(4, best=True),
        ]
        assert found == [4, 2, 4]


def test_a_best_that_is_the_newest_counts_once(tmp_path):
    saved(tmp_path, range(1, 5), best=lambda step: step, total=1)
    assert [path.name for path in tmp_path.iterdir()] == ["4"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # futures that Orbax leaves behind
def test_a_save_that_finds_no_room_is_told_at_once_and_the_one_before_stays(tmp_path):
    """A limit on the size of files stands for a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(tmp_path, total=1) as checkpoints:
        save(checkpoints, 2)
        checkpoints.wait()
        large = state_of(4, size=1_000_000)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
            with pytest.raises(RunFailed) as failure:  # noqa: PT012
                save(checkpoints, 4, state=large)
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    message = str(failure.value)
    assert f"the checkpoint of step 4 cannot be written to {tmp_path} (" in message
    assert "that of step 2 is whole" in message and "make room" in message
    assert restore(tmp_path) == 2


def test_reading_leaves_alone_what_a_run_is_writing(tmp_path):
    saved(tmp_path, [2])
    unfinished = tmp_path / "4.orbax-checkpoint-tmp"
    unfinished.mkdir()
    with opened(tmp_path, total=None) as checkpoints:
        params = checkpoints.restore_params(2, shapes()["params"], frozen_digest=None)
    np.testing.assert_array_equal(params["w"], state_of(2)["params"]["w"])
    assert unfinished.is_dir()
    with opened(tmp_path) as checkpoints:
        save(checkpoints, 6)  # a run that writes clears what a killed one left, before its first save
        checkpoints.wait()
        assert not unfinished.exists()


def test_damaged_weights_are_not_exported(tmp_path):
    saved(tmp_path, [2])
    damage(tmp_path, 2, "a flipped bit")
    with opened(tmp_path, total=None) as checkpoints, pytest.raises(Refused, match="2 is damaged"):
        checkpoints.restore_params(2, shapes()["params"], frozen_digest=None)
