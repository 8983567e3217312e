"""Several processes: half-given settings, and real runs of two processes beside runs of one."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from oddsmill.schemas.errors import Refused
from oddsmill.train.config.devices import DistributedConfig
from oddsmill.train.parallel.processes import gather_bytes, join_processes
from tests.datasets import packed, random_pairs, write_dataset
from tests.train.curves import assert_equal_but_for_rounding, logged
from tests.train.decoders import TINY, VOCAB_SIZE
from tests.train.fake_devices import fake_devices
from tests.train.parallel.coordination_service import Joined

ROOT = Path(__file__).parents[3]
STEPS = 40


def test_without_a_cluster_detection_is_refused(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "JAX_COORDINATOR", "KUBERNETES_")):
            monkeypatch.delenv(name)
    with pytest.raises(Refused, match="the processes cannot be joined"):
        join_processes(DistributedConfig(detect_cluster=True))


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_nobody_joins_ends_in_time(index, monkeypatch, capfd):
    """JAX would wait, and then abort with a stack of C++."""
    ended = threading.Event()

    def wait(*arguments, **options):
        assert options["initialization_timeout"] > 60
        assert ended.wait(10)
        raise RuntimeError("the program has ended")

    monkeypatch.setattr(jax.distributed, "initialize", wait)
    monkeypatch.setattr("os._exit", lambda code: (codes.append(code), ended.set()))
    codes = []
    config = DistributedConfig(
        coordinator_address="localhost:1", num_processes=2, process_id=index, initialization_timeout=1
    )
    with pytest.raises(Refused):
        join_processes(config)
    assert codes == [2]
    assert (
        f"refused: process {index}: after 1 s not all of 2 processes have come to localhost:1" in capfd.readouterr().err
    )


@pytest.mark.parametrize("count", [1, 2, 5])
def test_messages_of_all_processes_come_to_all_in_their_order(monkeypatch, count):
    def body(index):
        def gather():
            return [gather_bytes(bytes([index]) * size) for size in (0, 1, 300, 70_000)]

        return gather

    joined = Joined(monkeypatch, count)
    for found in joined.run(*map(body, range(count))):
        assert found == [[bytes([index]) * size for index in range(count)] for size in (0, 1, 300, 70_000)]
    assert {key.split("/")[2] for key in joined.service.values} == {"3"}  # those of before are gone


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    rows = packed(random_pairs(np.random.default_rng(0), 150, vocab_size=VOCAB_SIZE), 32)
    # Seven rows of evaluation: the last batch is not full, whatever the number of processes.
    splits = {"train": rows[7:], "eval": rows[:7]}
    write_dataset(folder / "data", splits, row_length=32, vocab_size=VOCAB_SIZE, shards=2)
    (folder / "config.json").write_text(json.dumps(TINY))
    settings = [f"--data={folder / 'data'}", f"--model.config={folder / 'config.json'}", f"--max_steps={STEPS}"]
    return [*settings, "--total_batch_size=4", "--gradient_accumulation_steps=2", "--save_steps=5", "--eval_steps=10"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start(verb, *arguments, processes=1, devices=1, of_process_1=()) -> list[subprocess.Popen]:
    port, started = free_port(), []
    for index in range(processes):
        command = [sys.executable, "-m", "oddsmill.train", verb, *arguments]
        if processes > 1:
            given = {"coordinator_address": f"localhost:{port}", "num_processes": processes, "process_id": index}
            command += [f"--distributed.{name}={value}" for name, value in given.items()]
            command += of_process_1 if index == 1 else []
        started.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=fake_devices(devices),
            )
        )
    return started


def finish(processes: list[subprocess.Popen]) -> list[str]:
    outputs = [process.communicate() for process in processes]
    for process, (_, error) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, error[-3000:]
    return [output for output, _ in outputs]


def assert_same_run(found: Path, expected: Path) -> None:
    """The same pairs at every step, exactly; the same curve, evaluations and weights but for rounding."""
    assert len({line["data_order"] for line in logged(expected) if "data_order" in line}) == STEPS
    assert_equal_but_for_rounding(logged(found), logged(expected), relative=1e-3, absolute=1e-4)
    weights, reference = (load_file(run / "export" / "model.safetensors") for run in (found, expected))
    for name, value in reference.items():
        np.testing.assert_allclose(weights[name], value, atol=5e-3, rtol=0)


@pytest.mark.slow
def test_two_processes_run_as_one_does_and_one_goes_on_for_them(inputs, tmp_path):
    one, two, mixed = (tmp_path / name for name in ("one", "two", "mixed"))
    finish(start("run", *inputs, f"--run_dir={one}"))
    outputs = finish(start("run", *inputs, f"--run_dir={two}", "--mesh.fsdp=2", processes=2, devices=2))
    assert_same_run(two, one)
    gathered = [line["step"] for line in logged(two) if "data_order" in line]
    assert gathered == list(range(5, STEPS + 1, 5))  # the steps of its checkpoints and evaluations
    assert "4 device(s) of 2 processes" in outputs[0]
    assert not re.sub(r"\[Gloo\].*\n", "", outputs[1])  # one process has the console

    # Killed after some checkpoints, gone on with by one process, on another mesh.
    processes = start("run", *inputs, f"--run_dir={mixed}", "--mesh.fsdp=2", processes=2, devices=2)
    metrics = mixed / "metrics.jsonl"
    while processes[0].poll() is None and not (metrics.exists() and '"step": 17,' in metrics.read_text()):
        time.sleep(0.01)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    assert [process.wait() for process in processes] == [-signal.SIGKILL] * 2
    [output] = finish(start("run", *inputs, f"--run_dir={mixed}", devices=4))
    assert "going on from the checkpoint of step" in output
    assert_same_run(mixed, one)

    # What two processes measure is what one does, whatever the batch.
    last = {name: value for name, value in logged(one)[-1].items() if name != "step"}
    for arguments, processes, devices in ((["--batch_size=1"], 1, 1), (["--batch_size=6"], 2, 1)):
        output = finish(
            start("eval", f"--run_dir={one}", *arguments, "--mesh.data=-1", processes=processes, devices=devices)
        )
        found = json.loads(output[0])
        assert found.keys() == last.keys()
        for name, value in last.items():
            exact = "accuracies" in name or "num_pairs" in name
            assert found[name] == pytest.approx(value, rel=0 if exact else 1e-5, abs=0 if exact else 1e-6), name
        assert output[1:] == [""] * (processes - 1)


def wait_for_step(step: int, run_dir: Path, process: subprocess.Popen) -> None:
    metrics = run_dir / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and f'"step": {step},' in metrics.read_text()):
        time.sleep(0.01)


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_saves_and_ends_both_at_the_same_step(inputs, tmp_path):
    settings = [*inputs, f"--run_dir={tmp_path}", "--save_steps=100"]
    processes = start("run", *settings, processes=2)
    wait_for_step(13, tmp_path, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [143, 143], errors
    [step] = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert all(f"SIGTERM at step {step}, which is saved" in error for error in errors)
    assert 13 < int(step) < 40
    [output, _] = finish(start("run", *settings, processes=2))
    assert f"going on from the checkpoint of step {step}" in output


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["run", "eval", "export"])
def test_processes_that_were_started_differently_end_with_one_message(inputs, tmp_path, verb):
    done = tmp_path / "done"
    if verb == "run":
        arguments, others = [*inputs, f"--run_dir={done}"], "--beta=0.25"
    else:
        finish(start("run", *inputs, f"--run_dir={done}", "--max_steps=5"))
        others = {"eval": "--batch_size=2", "export": "--dtype=bfloat16"}[verb]
        arguments = [f"--run_dir={done}", *(["--out=" + str(tmp_path / "out")] if verb == "export" else [])]
    name = others.split("=")[0]
    processes = start(verb, *arguments, processes=2, of_process_1=[others])
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], errors
    for error in errors:
        assert f"refused: the processes of this run differ in {name}: " in error and "Traceback" not in error
        assert error.count("refused: ") == 1 and " in process 0, " in error and " in process 1. " in error
    assert not (tmp_path / "out").exists() and done.exists() == (verb != "run")


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_a_process_that_cannot_begin_ends_the_other_with_its_reason(inputs, tmp_path, who):
    arguments = [*inputs, f"--run_dir={tmp_path / 'run'}"]
    missing, there = f"--data={tmp_path / 'nowhere'}", inputs[0]
    processes = start("run", *arguments, [missing, there][who], processes=2, of_process_1=[[there, missing][who]])
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], errors
    assert f"refused: {tmp_path / 'nowhere'}: no such folder" in errors[who]
    assert f"refused: process {who} refused: {tmp_path / 'nowhere'}: no such folder" in errors[1 - who]
    assert not any("Traceback" in error for error in errors)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_other_with_one_message_and_the_checkpoint_is_whole(inputs, tmp_path):
    settings = [*inputs, f"--run_dir={tmp_path}", "--save_steps=5"]
    processes = start("run", *settings, processes=2)
    wait_for_step(17, tmp_path, processes[0])
    processes[1].kill()
    _, error = processes[0].communicate(timeout=120)
    assert processes[0].returncode == 1
    assert "failed: another process is gone or failed (" in error and "Traceback" not in error
    [output] = finish(start("run", *settings))
    assert "going on from the checkpoint of step" in output
