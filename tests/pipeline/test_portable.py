"""Beam's portable job API: a job service and worker processes of their own, which have the extra [pipeline] alone."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.installations import has


def portable(python: Path | str) -> tuple[str, ...]:
    return (
        "--runner=PortableRunner",
        "--job_endpoint=embed",
        "--environment_type=beam:env:harness_subprocess_python:v1",
        f"--environment_config={python} -m apache_beam.runners.worker.sdk_worker_main",
    )


def test_worker_processes_write_the_bytes_of_the_embedded_runner(
    run: Callable, write_rows: Callable, triples: Callable
):
    rows = write_rows("rows.jsonl", [*triples(60), {"prompt": "x"}])
    embedded = run("embedded", rows, num_shards=2)
    processes = run("processes", rows, num_shards=2, beam=portable(sys.executable))
    assert processes.digests == embedded.digests
    assert processes.rejects == embedded.rejects


@pytest.mark.slow
def test_workers_need_only_the_extra_pipeline(
    run: Callable, write_rows: Callable, triples: Callable, stage: Callable[[str], Path], tmp_path: Path
):
    python = stage("pipeline")
    assert not any(has(python, module) for module in ("jax", "flax", "grain", "orbax", "google.cloud.storage"))
    rows = write_rows("rows.jsonl", [*triples(60), {"prompt": "x"}])
    embedded = run("embedded", rows, num_shards=2)
    command = [python, "-m", "oddsmill.pipeline", "run", f"--source.path={rows}", f"--output={tmp_path / 'out'}"]
    record = embedded.folder / "tokenizer"
    settings = ["--max_length=64", "--max_prompt_length=32", "--num_shards=2", f"--tokenizer={record}"]
    subprocess.run([*command, *settings, "--", *portable(python)], cwd=tmp_path, check=True)
    for name, digest in embedded.digests.items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest, name
