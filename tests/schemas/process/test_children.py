import os
import signal
import subprocess
import sys

import pytest

CODE = """
import subprocess
from oddsmill.schemas.process.children import kill_descendants

shell = subprocess.Popen("sleep 60 & echo started; wait", shell=True, stdout=subprocess.PIPE, text=True)
print(shell.stdout.readline(), end="")
kill_descendants()
shell.stdout.read()  # until the one below has ended too, which has the pipe as well
"""
CHILD = """
import ctypes, os, sys, time
from oddsmill.schemas.process.children import end_with

if sys.argv[2] == "refused":
    ctypes.CDLL = lambda _: type("Library", (), {"prctl": lambda *_: -1})
end_with(int(sys.argv[1]))
print("lives", flush=True)
time.sleep(60)
"""
PARENT = """
import os, subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1], str(os.getpid()), sys.argv[2]])
"""


def test_processes_below_this_one_are_ended_with_those_below_them():
    ended = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=20)
    assert ended.stdout == "started\n"


@pytest.mark.parametrize("kernel", ["asked", "refused"])
def test_a_process_ends_when_its_parent_is_killed(kernel: str):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD, kernel], stdout=subprocess.PIPE, text=True)
    assert parent.stdout and parent.stdout.readline() == "lives\n"
    parent.kill()
    assert parent.communicate(timeout=10) == ("", None)  # the child had the pipe too, and is gone
    assert parent.returncode == -signal.SIGKILL


def test_a_process_whose_parent_has_ended_before_it_asks_ends_at_once():
    gone = os.getpid() + 1
    child = subprocess.run([sys.executable, "-c", CHILD, str(gone), "asked"], capture_output=True, timeout=10)
    assert (child.returncode, child.stdout) == (1, b"")
