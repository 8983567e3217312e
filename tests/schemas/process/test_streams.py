"""Standard streams that are closed, full or gone, as a shell gives them to a command."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COMMAND = """
import sys
from oddsmill.schemas.console import log, show_messages
from oddsmill.schemas.errors import run_command

def command():
    show_messages()
    for number in range({lines}):
        {act}
    with open("done", "w") as file:
        file.write("done")

sys.exit(run_command(command, prints_result={prints_result}))
"""
LOG, PRINT = "log.info('x' * 1000)", "print('x' * 1000)"


@pytest.fixture
def shell(tmp_path):
    """Runs a command with the redirections of a shell; returns its exit code, what it printed, whether it was done."""

    def run(act: str, redirection: str, *, lines: int = 300, prints_result: bool):
        code = tmp_path / "command.py"
        code.write_text(COMMAND.format(act=act, lines=lines, prints_result=prints_result))
        line = f"'{sys.executable}' '{code}' {redirection}; exit ${{PIPESTATUS[0]}}"
        found = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
        )
        return found.returncode, found.stderr, (tmp_path / "done").exists()

    return run


@pytest.mark.parametrize("redirection", ["| head -n 1 > /dev/null", ">&-", ">&- 2>&-", "> /dev/full", "<&- >&- 2>&-"])
def test_messages_that_nobody_takes_end_no_work(shell, redirection):
    assert shell(LOG, redirection, prints_result=False) == (0, "", True)


@pytest.mark.parametrize("lines", [1, 300])  # one is written when the command ends
@pytest.mark.parametrize(
    ("redirection", "reason"), [("> /dev/full", "No space left on device"), (">&-", "Bad file descriptor")]
)
def test_a_result_that_cannot_be_written_is_a_failure(shell, lines, redirection, reason):
    code, error, _ = shell(PRINT, redirection, lines=lines, prints_result=True)
    assert (code, error) == (1, f"failed: the standard output: {reason}\n")


def test_a_reader_that_has_seen_enough_ends_the_command_quietly_as_other_tools_end(shell):
    assert shell(PRINT, "| head -n 1 > /dev/null", prints_result=True) == (141, "", False)


def test_a_closed_stream_is_no_file_that_is_opened_later(shell):
    act = "file = open('data', 'w'); import os; assert file.fileno() > 2; print('lost'); os.write(2, b'lost')"
    assert shell(act, "<&- >&- 2>&-", lines=1, prints_result=False) == (0, "", True)
