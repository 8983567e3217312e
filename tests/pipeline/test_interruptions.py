"""Stage one that a signal ends while Beam is at work: its exit code, its one line, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
ALONE, OURS = ["--dataset_num_proc=1"], ["--dataset_num_proc=3"]
IN_PROCESSES = ["--", "--direct_num_workers=2", "--direct_running_mode=multi_processing"]


@pytest.mark.parametrize(
    ("number", "options"),
    [(signal.SIGINT, OURS), (signal.SIGTERM, ALONE), (signal.SIGHUP, OURS), (signal.SIGTERM, IN_PROCESSES)],
)
def test_a_signal_leaves_nothing_that_looks_done_and_no_process(tmp_path, tokenizer_folder, number, options):
    row = json.dumps({"prompt": "What is it? " * 20, "chosen": " It is. " * 20, "rejected": " It is not. " * 20})
    (tmp_path / "rows.jsonl").write_text((row + "\n") * 200_000)
    output, temporary = tmp_path / "out", tmp_path / "temporary"
    temporary.mkdir()
    command = [
        sys.executable, "-m", "oddsmill", "pipeline", "run", f"--source.path={tmp_path / 'rows.jsonl'}",
        f"--tokenizer={tokenizer_folder}", f"--output={output}", "--max_length=512", *options,
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "TMPDIR": str(temporary)}, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while not (output / "tokenizer" / "tokenizer.json").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    time.sleep(8 if options == IN_PROCESSES else 1 if options == ALONE else 3)  # Beam's workers are at work
    os.killpg(process.pid, number)  # as a terminal does
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    assert error.endswith(f"interrupted by {number.name}: run the same command again to go on\n")
    assert "Traceback" not in error
    assert [path.name for path in output.iterdir()] == []
    assert list(temporary.iterdir()) == []
    alive = subprocess.run(["ps", "-o", "stat=", "-s", str(process.pid)], capture_output=True, text=True).stdout
    assert set(alive.split()) <= {"Z"}  # dead, and nobody has asked for it yet
