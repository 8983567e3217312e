"""Workers that are processes end with their run, whatever ends it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.campaign.kills import group

ROOT = Path(__file__).parents[2]


BEAMS = ["--", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]


@pytest.fixture(params=[BEAMS, ["--dataset_num_proc=3"]], ids=["of Beam", "of ours"])
def started(
    request: pytest.FixtureRequest, write_rows: Callable, triples: Callable, tokenizer_folder: Path, tmp_path: Path
) -> Iterator:
    path = write_rows("rows.jsonl", triples(300))
    process = subprocess.Popen(
        [sys.executable, "-m", "oddsmill.pipeline", "run", f"--source.path={path}", f"--tokenizer={tokenizer_folder}",
         "--max_length=64", f"--output={tmp_path / 'out'}", *request.param],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    yield process
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_a_run_that_is_ended_while_they_start(started: "subprocess.Popen[str]", number: int):
    until(lambda: len(group(started.pid)) > 1 or started.poll() is not None, 60)
    assert started.poll() is None
    started.send_signal(number)
    until(lambda: not group(started.pid), 15)
    assert "Traceback" not in started.communicate(timeout=5)[1]


def until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
