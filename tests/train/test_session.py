"""What lives as long as a run: opened once, closed after every end. Whole runs: test_run.py, test_watched_runs.py."""

import dataclasses
import json
import multiprocessing
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oddsmill.schemas.errors import Refused, RunFailed, Stopped
from oddsmill.schemas.locks.lock import lock_inside
from oddsmill.schemas.locks.places import place_of
from oddsmill.train.config.model import LoraConfig, ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.loop import train
from oddsmill.train.prepare import prepare
from oddsmill.train.run_lock import locked_run_folder
from oddsmill.train.session import open_session
from oddsmill.train.weights.huggingface import save_params
from tests.datasets import packed, random_pairs, write_dataset
from tests.train.curves import logged
from tests.train.decoders import TINY, VOCAB_SIZE, decoder_config, split_decoder


@pytest.fixture
def config(tmp_path):
    rows = packed(random_pairs(np.random.default_rng(0), 60, vocab_size=VOCAB_SIZE), 32)
    sizes = {"row_length": 32, "vocab_size": VOCAB_SIZE}
    write_dataset(tmp_path / "data", {"train": rows[4:], "eval": rows[:4]}, **sizes)
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    model = ModelConfig(config=str(tmp_path / "config.json"))
    return TrainConfig(
        data=str(tmp_path / "data"), run_dir=str(tmp_path / "run"), model=model, total_batch_size=4, max_steps=4,
        gradient_checkpointing=False, report_to=[], learning_rate=1e-2,
    )  # fmt: skip


def take_step(session, step_fn, state):
    state, metrics = step_fn(state, session.next_batch(), session.frozen)
    session.count_step(state, metrics)
    return state


def test_a_session_goes_on_where_the_one_before_saved(config):
    run = prepare(config)
    step_fn = run.program.jitted_step()
    with open_session(run) as session:
        state = session.start()
        for _ in range(2):
            state = take_step(session, step_fn, state)
        assert session.step == 2 and not session.is_over and [line["step"] for line in logged(config.run_dir)] == [1]
        session.save(state, evaluation_due=True)
        assert [line["step"] for line in logged(config.run_dir)] == [1, 2]  # all steps are reported before a save
        state = take_step(session, step_fn, state)  # which is lost
        digest = session.order.after(2)
    with open_session(run) as session:
        state = session.start()
        assert session.step == int(state["step"]) == 2 and session.order.digest == digest
        # The evaluation that was put off comes first, and the lost step has left no line.
        assert [("eval/loss" in line, line["step"]) for line in logged(config.run_dir)] == [
            (False, 1), (False, 2), (True, 2),
        ]  # fmt: skip
        for _ in range(2):
            state = take_step(session, step_fn, state)
        assert session.is_over
        final = session.finish(state)
    assert final.step == 4 and state == {} and final.evaluation == {}
    assert [line["step"] for line in logged(config.run_dir)][-1] == 4


@pytest.mark.parametrize(
    "changes",
    [{"weight_decay": 0.1}, pytest.param({"lora": LoraConfig(rank=2)}, marks=pytest.mark.slow)],
    ids=["all", "adapters"],
)
def test_weights_in_bfloat16_go_on_bit_for_bit(config, tmp_path, changes):
    """The noise of a step follows from the run's seed and the step, not from when the program was started."""
    save_params(split_decoder(decoder_config())[1], tmp_path, num_layers=TINY["num_hidden_layers"])
    changes = changes | {"model": ModelConfig(path=str(tmp_path))}
    config = dataclasses.replace(
        config, param_dtype="bfloat16", learning_rate=1e-3, optim="adamw_bf16", gradient_accumulation_steps=2, **changes
    )
    run = prepare(config)
    step_fn = run.program.jitted_step()
    with open_session(run) as session:
        state = session.start()
        first = jax.device_get(state["params"])
        for number in range(3):
            if number == 2:
                session.save(state, evaluation_due=False)
            state = take_step(session, step_fn, state)
        expected = jax.device_get(state)
    with open_session(run) as session:
        found = jax.device_get(take_step(session, step_fn, session.start()))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(found["params"])} == {jnp.dtype(jnp.bfloat16)}
    moved = jax.tree.map(lambda new, old: bool((new != old).any()), found["params"], first)
    assert all(jax.tree.leaves(moved))


def test_all_that_it_holds_is_closed_after_an_error(config):
    run = prepare(dataclasses.replace(config, dataloader_num_workers=1))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RunFailed, match="enough"), open_session(run) as session:  # noqa: PT012
        session.start()
        session.next_batch()
        assert signal.getsignal(signal.SIGTERM) != before and multiprocessing.active_children()
        assert jax.sharding.get_abstract_mesh().shape_tuple
        raise RunFailed("enough")
    assert signal.getsignal(signal.SIGTERM) == before and not multiprocessing.active_children()
    assert not jax.sharding.get_abstract_mesh().shape_tuple


def test_other_settings_are_refused_before_anything_is_written(config):
    run = prepare(config)
    with open_session(run) as session:
        session.save(session.start())
    other = prepare(dataclasses.replace(config, beta=0.7))
    before = run.files.settings.read_text()
    with pytest.raises(Refused, match=r"beta: 0\.1 -> 0\.7"), open_session(other):
        pass
    assert run.files.settings.read_text() == before


def test_a_stop_names_its_signal_and_its_step(config):
    with open_session(prepare(config)) as session:
        session.save(session.start())
        stopped = session.stopped(signal.SIGINT)
    assert isinstance(stopped, Stopped) and stopped.exit_code == 130
    assert str(stopped) == "SIGINT at step 0, which is saved; the same command goes on from it"


def test_a_second_run_in_the_folder_is_refused_and_a_run_that_lost_it_saves_nothing(config):
    with locked_run_folder(config.run_dir) as lock:
        with pytest.raises(Refused, match=r"oddsmill train run of .* is writing there"):
            train(config)
        assert [path.name for path in Path(config.run_dir).iterdir()] == [".oddsmill-lock-1"]
        with open_session(prepare(config), lock) as session:
            state = session.start()
            place_of(lock_inside(config.run_dir)).remove(1)
            with pytest.raises(RunFailed, match="is no longer this run's"):
                session.save(state)
            assert session.checkpoints.steps == []
