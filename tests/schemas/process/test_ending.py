"""The end of a process that is one command."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# Python's teardown takes a second here: meanwhile a thread comes back from C++, as one does now and then in any run.
COMMAND = """
import atexit, sys, threading, time
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from oddsmill.schemas.process.ending import run_process

class TornDown:
    def __del__(self, write=sys.stdout.write, sleep=time.sleep):
        write("torn down")
        sleep(1)

def command(path):
    writer = ArrayRecordWriter(path, "group_size:1")
    for _ in range(100):
        writer.write(bytes(1_000_000))
    writer.close()
    atexit.register(print, "atexit", end=" ")
    threading.Thread(target=lambda: time.sleep(0.2) or print("thread", end=" ")).start()
    threading.Thread(target=ArrayRecordReader(path).read_all, daemon=True).start()
    print("command", end=" ")
    return int(sys.argv[2])

_torn_down = TornDown()
if __name__ == "__main__":
    sys.exit(run_process(lambda: command(sys.argv[1])))
"""


@pytest.mark.parametrize(("given", "code"), [("0", 0), ("3", 3), ("no number", 1)])
def test_a_thread_in_a_library_of_c_aborts_no_command_that_is_done(tmp_path: Path, given: str, code: int):
    command = [sys.executable, "-c", COMMAND, str(tmp_path / "records"), given]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (code, "command thread atexit "), ended.stderr
    assert ("ValueError: invalid literal" in ended.stderr) == (code == 1)


@pytest.mark.parametrize(("code", "expected"), [("", 0), ("0", 0), ("2", 2), ("'why'", 1)])
def test_a_command_that_ends_by_itself_has_the_exit_code_that_it_gave(code: str, expected: int):
    command = (
        f"import sys; from oddsmill.schemas.process.ending import run_process; run_process(lambda: sys.exit({code}))"
    )
    ended = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (expected, "why\n" * (expected == 1))


def test_the_help_of_a_command_is_no_failure():
    command = [sys.executable, "-m", "oddsmill", "pipeline", "plan", "--help"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "") and "--log_level" in ended.stdout
