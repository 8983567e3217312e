"""`oddsmill train plan` for TPUs, compiled by libtpu on this machine's CPUs. `make test-slow` installs it."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from oddsmill.train.planning.topologies import _SLICES
from tests.train.planning.test_plan import MODEL, figure, plan

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def libtpu():
    """The environment in which JAX finds it. Skipped where it is absent, but not in CI: there, absence is a failure."""
    path = Path(os.environ.get("TPU_LIBRARY_PATH") or Path(sys.prefix) / "tpu" / "libtpu" / "libtpu.so")
    if not path.is_file():
        message = f"libtpu is not at {path}; `make test-slow` installs it"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return {"TPU_LIBRARY_PATH": str(path)}


def test_every_name_of_a_slice_is_one_that_xla_knows_with_as_many_chips(libtpu):
    """Google's names of v4 and v5p count TensorCores, two a chip; those of v5e and v6e chips."""
    code = (
        "import jax; jax.config.update('jax_platforms', 'cpu')\n"
        "from oddsmill.train.planning.topologies import _SLICES, find_topology\n"
        "for name in _SLICES:\n"
        "    found = find_topology(name)\n"
        "    print(name, len(found.devices), found.num_processes, found.memory_bytes // 2**30)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env={**os.environ, **libtpu}
    )
    assert finished.returncode == 0 and finished.stderr == ""
    found = {line.split()[0]: line.split()[1:] for line in finished.stdout.splitlines()}
    assert set(found) == set(_SLICES)
    assert found["v5e-16"] == ["16", "4", "16"]
    assert found["v5p-128"] == ["64", "16", "95"]
    assert found["v4-8"] == ["4", "1", "32"]
    assert found["v6e-8"] == ["8", "1", "32"]


def test_a_small_model_on_four_chips(libtpu, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(MODEL))
    settings = [f"--model.config={tmp_path / 'config.json'}", "--row_length=256", "--compute_dtype=bfloat16"]
    finished = plan("--topology=v5e-4", *settings, **libtpu)
    assert finished.returncode == 0 and finished.stderr == ""
    assert "v5e-4: 4 devices (TPU v5 lite), 1 process(es)" in finished.stdout
    assert "of 16,384" in finished.stdout
    assert figure(finished.stdout, "executed, GFLOP") > figure(finished.stdout, "model, GFLOP") > 0
    assert figure(finished.stdout, "all-gather, MB") > 0


def test_what_does_not_fit_is_told_with_its_memory(libtpu, tmp_path):
    """Two million tokens a chip; no policy is left to try."""
    (tmp_path / "config.json").write_text(json.dumps(MODEL))
    settings = ["--row_length=4096", "--total_batch_size=2048", "--gradient_checkpointing=false", "--mesh.fsdp=4"]
    finished = plan("--topology=v5e-4", f"--model.config={tmp_path / 'config.json'}", *settings, **libtpu)
    assert finished.returncode == 1
    assert "Traceback" not in finished.stderr and finished.stderr.startswith("failed: no mesh and policy")
    needed = re.search(r"does not fit in memory: it needs ([\d.]+) GiB of 15.75 GiB", finished.stdout)
    assert needed and float(needed.group(1)) > 15.75


def test_eight_billion_parameters_fit_64_chips(libtpu):
    """In 16 GB each, with 4,096 tokens each; and the compiler of this takes no more memory than CI has."""
    finished = plan(
        "--topology=v5e-64", "--model.config=recipes/plan/llama-3.1-8b.json", "--row_length=4096",
        "--total_batch_size=64", "--compute_dtype=bfloat16", "--gradient_checkpointing=true", **libtpu,
    )  # fmt: skip
    assert finished.returncode == 0 and finished.stderr == ""
    assert "model of 8,030,261,248 parameters" in finished.stdout
    assert figure(finished.stdout, "total") < 15.75 * 1024
    state = 12 * 8_030_261_248 / 64 / 2**20
    assert figure(finished.stdout, "of it updated in place") == pytest.approx(state, rel=0.01)
    assert figure(finished.stdout, "model, GFLOP") > 0.6 * figure(finished.stdout, "executed, GFLOP")
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 10e6  # kilobytes
