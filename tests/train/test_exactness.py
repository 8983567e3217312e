"""The same steps, however rows fall into micro-batches, devices and processes."""

import socket
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from tests.datasets import packed, random_pairs, write_dataset
from tests.train.decoders import VOCAB_SIZE
from tests.train.fake_devices import fake_devices

ROOT = Path(__file__).parents[2]
ROW_LENGTH = 24
MESHES = ("1,1,1", "8,1,1", "1,8,1", "2,2,2")
VARIANTS = [f"{micro},{mesh}" for micro, mesh in product((1, 2, 4, 8), MESHES)]
# A kernel's call is spread over the mesh by our own rules; two key-value heads cannot be over eight devices.
KERNELS = ["1,1,1,1,pallas", "1,2,2,2,pallas", "2,8,1,1,pallas", "1,1,1,8,pallas"]
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Rows of one to several pairs, of unequal lengths: every micro-batch has its own number of pairs and tokens."""
    folder = tmp_path_factory.mktemp("rows") / "data"
    pairs = random_pairs(np.random.default_rng(0), 300, vocab_size=VOCAB_SIZE)
    write_dataset(folder, {"train": packed(pairs, ROW_LENGTH)}, row_length=ROW_LENGTH, vocab_size=VOCAB_SIZE)
    return folder


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start(rows, out, dtype, variants, *, process=0, count=1, port=0) -> subprocess.Popen:
    arguments = [str(rows), str(out), dtype, str(process), str(count), str(port), *variants]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.train.one_step", *arguments],
        cwd=ROOT,
        env=fake_devices(8 // count),
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes: subprocess.Popen) -> None:
    for process in processes:
        error = process.communicate()[1]
        assert process.returncode == 0, error[-3000:]


def assert_equal(found: Path, expected: Path, tolerance: float) -> None:
    found, expected = np.load(found), np.load(expected)
    assert set(found) == set(expected) and any(name.startswith("2/params/") for name in expected)
    for name in expected:
        scale = max(1.0, float(np.abs(expected[name]).max()))
        assert np.abs(found[name] - expected[name]).max() <= tolerance * scale, name


@pytest.mark.slow
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_micro_batches_and_meshes_do_not_change_a_step(rows, tmp_path, dtype):
    """Metrics, weights and both moments after each of two steps, which differ from each other."""
    others = [*VARIANTS[1:], *(KERNELS if dtype == "float64" else [])]
    finish(start(rows, tmp_path / "one", dtype, [VARIANTS[0], *others]))
    for variant in others:
        assert_equal(tmp_path / f"one-{variant}.npz", tmp_path / f"one-{VARIANTS[0]}.npz", TOLERANCE[dtype])
    first = np.load(tmp_path / f"one-{VARIANTS[0]}.npz")
    assert abs(first["1/loss"] - first["2/loss"]) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_two_processes_take_the_step_of_one(rows, tmp_path, dtype):
    """Four devices each, joined by gloo; along data, fsdp and tensor the mesh reaches over both."""
    variants = ["1,8,1,1", "4,1,8,1", "2,2,2,2", "2,1,1,8"]
    port = free_port()
    finish(*(start(rows, tmp_path / "two", dtype, variants, process=i, count=2, port=port) for i in range(2)))
    finish(start(rows, tmp_path / "one", dtype, VARIANTS[:1]))
    for variant in variants:
        assert_equal(tmp_path / f"two-{variant}.npz", tmp_path / f"one-{VARIANTS[0]}.npz", TOLERANCE[dtype])
