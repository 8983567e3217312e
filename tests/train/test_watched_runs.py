"""Whole runs: stopped, starved, poisoned and watched by every sink there is."""

import contextlib
import json
import os
import shutil
import signal
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import oddsmill.train.loop
import oddsmill.train.session
from oddsmill.train.__main__ import main
from oddsmill.train.prepare import Run, prepare
from oddsmill.train.weights.huggingface import save_params
from tests.datasets import adopt_tokenizer, packed, random_pairs, write_dataset
from tests.full_disks import files_end_at
from tests.train.curves import logged
from tests.train.decoders import OVERFLOWING, TINY, VOCAB_SIZE, decoder_config, split_decoder

pytestmark = pytest.mark.slow
ROW_LENGTH, POISON = 32, VOCAB_SIZE - 1
SETTINGS = ["--total_batch_size=4", "--learning_rate=1e-2", "--gradient_checkpointing=false"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, make_tokenizer):
    """A dataset with a tokenizer that works, one pair of which holds the poison, and two models."""
    folder = tmp_path_factory.mktemp("inputs")
    pairs = random_pairs(np.random.default_rng(0), 100, vocab_size=POISON)
    rows = packed(pairs, ROW_LENGTH)
    rows[20][0].chosen[0] = POISON
    write_dataset(folder / "data", {"train": rows[6:], "eval": rows[:6]}, row_length=ROW_LENGTH, vocab_size=VOCAB_SIZE)
    make_tokenizer(folder / "data" / "tokenizer")
    adopt_tokenizer(folder / "data")
    (folder / "config.json").write_text(json.dumps(TINY))
    weights = split_decoder(decoder_config(), jnp.float32)[1]
    weights["embed_tokens"]["weight"] = weights["embed_tokens"]["weight"].at[POISON].set(np.finfo(np.float32).max)
    (folder / "poisoned").mkdir()
    save_params(weights, folder / "poisoned", num_layers=TINY["num_hidden_layers"])
    (folder / "poisoned" / "config.json").write_text(json.dumps(OVERFLOWING))
    return {
        "random": [f"--data={folder / 'data'}", f"--model.config={folder / 'config.json'}", *SETTINGS],
        "poisoned": [f"--data={folder / 'data'}", f"--model.path={folder / 'poisoned'}", *SETTINGS],
        "blamed": [f"{pair.id:016x}" for pair in rows[20]],
        "data": folder / "data",
    }


def at_step(monkeypatch, step, action):
    """Does something while a step, counted from 1 in this start, is taken."""
    counts = iter(range(1, 10_000))
    put_on_mesh = oddsmill.train.session.put_on_mesh

    def put(batch, mesh):
        if next(counts) == step:
            action()
        return put_on_mesh(batch, mesh)

    monkeypatch.setattr(oddsmill.train.session, "put_on_mesh", put)


def test_a_signal_at_an_evaluation_saves_first_and_evaluates_when_the_run_goes_on(
    inputs, tmp_path, monkeypatch, capsys
):
    settings = [*inputs["random"], "--max_steps=12", "--eval_steps=4", "--save_steps=100"]
    assert main(["run", f"--run_dir={tmp_path / 'whole'}", *settings]) == 0
    arguments = ["run", f"--run_dir={tmp_path / 'stopped'}", *settings]
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        with monkeypatch.context() as patch:
            at_step(patch, 4, lambda number=number: os.kill(os.getpid(), number))
            assert main(arguments) == code
        assert "is saved; the same command goes on from it" in capsys.readouterr().err
    assert "eval/loss" not in logged(tmp_path / "stopped")[-1]
    assert logged(tmp_path / "stopped")[-1]["step"] == 8
    assert main(arguments) == 0
    assert logged(tmp_path / "stopped") == logged(tmp_path / "whole")
    name = "export/model.safetensors"
    assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_signal_at_the_last_evaluation_leaves_what_a_run_without_one_leaves(inputs, tmp_path, monkeypatch):
    """Also after one more start, killed before it could save."""
    settings = [
        *inputs["random"], "--max_steps=6", "--eval_steps=2", "--save_steps=2", "--load_best_model_at_end=true",
        "--save_total_limit=9", "--report_to=[]",
    ]  # fmt: skip
    assert main(["run", f"--run_dir={tmp_path / 'whole'}", *settings]) == 0
    arguments = ["run", f"--run_dir={tmp_path / 'stopped'}", *settings]
    with monkeypatch.context() as patch:
        at_step(patch, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert main(arguments) == 143
    with monkeypatch.context() as patch:
        patch.setattr(oddsmill.train.session.Checkpoints, "save", lambda *_, **__: exit(9))
        with pytest.raises(SystemExit):
            main(arguments)
    for _ in range(2):
        assert main(arguments) == 0
        assert logged(tmp_path / "stopped") == logged(tmp_path / "whole")
    found = []
    for name in ("whole", "stopped"):
        reader = oddsmill.train.session.Checkpoints(tmp_path / name / "checkpoints", identity={}, save_total_limit=None)
        with reader as checkpoints:
            found.append(checkpoints.find_step(None, best=True))
    assert found == [6, 6]


def test_devices_without_room_from_the_start_are_told_in_one_message(inputs, tmp_path, monkeypatch, capsys):
    def prepared(config):
        def initial_weights(run):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes")

        run = prepare(config)
        monkeypatch.setattr(Run, "initial_weights", initial_weights)
        return run

    monkeypatch.setattr(oddsmill.train.loop, "prepare", prepared)
    assert main(["run", f"--run_dir={tmp_path / 'run'}", *inputs["random"], "--max_steps=2"]) == 1
    assert "the devices have no memory left" in capsys.readouterr().err


def test_early_stopping_leaves_the_best_weights_and_the_run_is_over(inputs, tmp_path, capsys):
    settings = [
        *inputs["random"], "--max_steps=400", "--eval_steps=2", "--learning_rate=5e-2", "--early_stopping_patience=3",
        "--load_best_model_at_end=true", "--save_total_limit=1", "--report_to=[]",
    ]  # fmt: skip
    arguments = ["run", f"--run_dir={tmp_path / 'run'}", *settings]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    evaluations = {line["step"]: line["eval/loss"] for line in logged(tmp_path / "run") if "eval/loss" in line}
    best = min(evaluations, key=evaluations.__getitem__)
    last = max(evaluations)
    assert last == best + 6 < 400
    assert f"the best evaluation is that of step {best}" in output and "early stopping: 3 evaluations" in output
    assert "held out   reward accuracy" in output and f"loss {evaluations[best]:.4f}" in output.split("held out")[1]
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == [
        *map(str, sorted((best, last)))
    ]
    exported = load_file(tmp_path / "run" / "export" / "model.safetensors")
    assert main(["export", f"--run_dir={tmp_path / 'run'}", f"--checkpoint={best}", f"--out={tmp_path / 'best'}"]) == 0
    best_weights = load_file(tmp_path / "best" / "model.safetensors")
    assert all(np.array_equal(exported[name], best_weights[name]) for name in exported | best_weights)
    # The same command once more: nothing to do, and the same weights.
    capsys.readouterr()
    assert main(arguments) == 0
    assert "nothing to do" in capsys.readouterr().out
    again = load_file(tmp_path / "run" / "export" / "model.safetensors")
    assert all(np.array_equal(exported[name], again[name]) for name in exported)


def test_a_row_that_is_not_finite_ends_the_run_and_is_named(inputs, tmp_path, capsys):
    run_dir = tmp_path / "run"
    settings = [*inputs["poisoned"], "--num_train_epochs=1", "--shuffle_train_dataset=false", "--save_steps=2"]
    assert main(["run", f"--run_dir={run_dir}", *settings]) == 1
    step = (20 - 6) // 4 + 1
    error = capsys.readouterr().err
    assert f"at step {step}; pairs of the rows that are not finite alone: {' '.join(inputs['blamed'])}. " in error
    dump = json.loads((run_dir / f"nonfinite-step-{step}.json").read_text())
    assert [row["pairs"] for row in dump["rows"] if not row["finite"]] == [inputs["blamed"]]
    assert len(dump["rows"]) == 4 and dump["data"] == str(inputs["data"])
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["2"]
    assert logged(run_dir)[-1]["step"] == step - 1
    # Asked to, the same command leaves the step out and goes on.
    assert main(["run", f"--run_dir={run_dir}", *settings, "--max_skipped_steps=1"]) == 0
    output = capsys.readouterr().out
    assert f"warning: step {step}: loss nan" in output and "left out, 1 of at most 1" in output
    lines = {line["step"]: line for line in logged(run_dir) if "eval/loss" not in line}
    assert "loss" not in lines[step] and [line["skipped_steps"] for line in lines.values()] == [
        float(number >= step) for number in lines
    ]
    # A step that is left out is not counted in the schedule.
    assert lines[step + 1]["learning_rate"] == lines[step]["learning_rate"] > lines[step + 2]["learning_rate"]
    weights = load_file(run_dir / "export" / "model.safetensors")
    assert all(np.isfinite(value).all() for name, value in weights.items() if "embed" not in name)
    # Fewer allowed than were left out already: no step could be taken any more.
    assert main(["run", f"--run_dir={run_dir}", *settings]) == 2
    assert "--max_skipped_steps=0: the run has left out 1 already" in capsys.readouterr().err


def test_a_shard_that_goes_missing_ends_the_run_and_nothing_is_saved_since(inputs, tmp_path, monkeypatch, capsys):
    shutil.copytree(inputs["data"], tmp_path / "data")
    shard = tmp_path / "data" / "train-00000-of-00001.arrayrecord"
    arguments = [
        "run", f"--run_dir={tmp_path / 'run'}", *inputs["random"], f"--data={tmp_path / 'data'}", "--max_steps=12",
        "--save_steps=2",
    ]  # fmt: skip
    with monkeypatch.context() as patch:
        at_step(patch, 6, lambda: shard.rename(tmp_path / "elsewhere"))
        assert main(arguments) == 1
    error = capsys.readouterr().err
    assert f"{shard} is missing since the run began" in error and "Traceback" not in error
    assert max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()) == 4
    assert main(arguments) == 2  # it is refused at the start now
    (tmp_path / "elsewhere").rename(shard)
    assert main(arguments) == 0


class FakeWandb(types.ModuleType):
    """What the sink uses of wandb, kept for the test."""

    def __init__(self):
        super().__init__("wandb")
        self.logs, self.starts, self.finished = [], [], 0

    def init(self, **settings):
        self.starts.append(settings)
        return types.SimpleNamespace(
            id="abc", log=self.logs.append, finish=self.finish, define_metric=lambda *names, **more: None
        )

    def finish(self):
        self.finished += 1

    def Table(self, *, columns, data):
        return [dict(zip(columns, row, strict=True)) for row in data]


def test_every_sink_gets_metrics_and_samples(inputs, tmp_path, monkeypatch, capsys):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    run_dir = tmp_path / "run"
    arguments = [
        "run", f"--run_dir={run_dir}", *inputs["random"], "--max_steps=6", "--eval_steps=2", "--save_steps=4",
        "--report_to=[tensorboard,wandb]", "--generate_during_eval=true", "--generation_num_prompts=2",
        "--generation_max_new_tokens=4", "--generation_do_sample=true", "--generation_seed=1", "--profile_steps=[2,3]",
        "--save_interval_minutes=100",
    ]  # fmt: skip
    assert main(arguments) == 0
    output = capsys.readouterr().out
    samples = [json.loads(line) for line in (run_dir / "samples.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in samples] == [0, 0, 2, 2, 4, 4, 6, 6]
    assert output.count("step 0 ") == output.count("step 6  ") - output.count("eval/step 6") == 2
    metrics = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    sent = [log for log in wandb.logs if "samples" not in log]
    assert sent == metrics
    tables = {log["step"]: log["samples"] for log in wandb.logs if "samples" in log}
    assert list(tables) == [0, 2, 4, 6] and tables[6] == samples[-2:]
    assert wandb.finished == 1 and wandb.starts[0]["config"]["beta"] == 0.1
    (events,) = (run_dir / "tensorboard").glob("events*")
    assert b"samples/0" in events.read_bytes() and b"eval/loss" in events.read_bytes()
    assert list((run_dir / "profile").rglob("*.xplane.pb"))
    # The run goes on in theirs, and samples of steps that were not saved are generated again.
    shutil.rmtree(run_dir / "checkpoints" / "6")
    assert main(arguments) == 0
    assert wandb.starts[1]["id"] == "abc"
    assert [json.loads(line) for line in (run_dir / "samples.jsonl").read_text().splitlines()] == samples


@pytest.mark.parametrize("sink", ["metrics.jsonl", "checkpoints"])
def test_a_disk_that_fills_up_ends_the_run_at_once_and_the_checkpoint_before_goes_on(
    inputs, tmp_path, monkeypatch, capsys, sink
):
    """No file grows beyond what the fullest of a kind has at step 6: the next write of that kind fails."""
    settings = [
        *inputs["random"], "--max_steps=12", "--save_steps=2", "--eval_steps=4", "--generate_during_eval=true",
        "--generation_num_prompts=1", "--generation_max_new_tokens=2", "--report_to=[]",
    ]  # fmt: skip
    run_dir = tmp_path / "run"
    limit = contextlib.ExitStack()

    def fill():
        files = [path for path in (run_dir / sink, *(run_dir / sink).rglob("*")) if path.is_file()]
        limit.enter_context(
            files_end_at(max(path.stat().st_size for path in files) // (2 if sink == "checkpoints" else 1))
        )

    with monkeypatch.context() as patch, limit:
        at_step(patch, 6, fill)
        assert main(["run", f"--run_dir={run_dir}", *settings]) == 1
    error = capsys.readouterr().err
    assert error.startswith("failed: ") and error.count("\n") == 1 and "Traceback" not in error
    assert "cannot be written" in error and sink in error and "the same command goes on" in error
    kept = max(int(path.name) for path in (run_dir / "checkpoints").iterdir() if path.name.isdigit())
    assert kept >= 2  # that of step 4 may be under way when the disk is full
    assert main(["run", f"--run_dir={run_dir}", *settings]) == 0
    assert f"going on from the checkpoint of step {kept}" in capsys.readouterr().out
    assert main(["run", f"--run_dir={tmp_path / 'whole'}", *settings]) == 0
    assert logged(run_dir) == logged(tmp_path / "whole")


def test_checkpoints_by_the_clock_and_no_last_one(inputs, tmp_path):
    arguments = [
        "run", f"--run_dir={tmp_path / 'run'}", *inputs["random"], "--max_steps=3", "--save_steps=null",
        "--save_interval_minutes=1e-9", "--save_total_limit=9", "--report_to=[]",
    ]  # fmt: skip
    assert main(arguments) == 0
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["1", "2", "3"]
    arguments[1] = f"--run_dir={tmp_path / 'none'}"
    arguments[arguments.index("--save_interval_minutes=1e-9")] = "--do_last_save=false"
    assert main(arguments) == 0
    assert list((tmp_path / "none" / "checkpoints").iterdir()) == []
    assert (tmp_path / "none" / "export" / "model.safetensors").is_file()
