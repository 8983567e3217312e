import subprocess
import sys

CODE = """
import subprocess
from oddsmill.schemas.process.children import kill_descendants

shell = subprocess.Popen("sleep 60 & echo $!; wait", shell=True, stdout=subprocess.PIPE, text=True)
below = int(shell.stdout.readline())
kill_descendants()
shell.wait(5)
print(below)
"""


def test_processes_below_this_one_are_ended_with_those_below_them():
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout.strip()
    try:
        with open(f"/proc/{found}/stat") as file:
            assert file.read().split()[2] == "Z"  # dead, and nobody has asked for it yet
    except FileNotFoundError:
        pass
