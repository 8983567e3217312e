import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from oddsmill.schemas.process.temporary import temporary_folder

HOLD = """
import sys
from oddsmill.schemas.process.temporary import temporary_folder

with temporary_folder() as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def age(folder: str) -> None:
    then = time.time() - 3600
    os.utime(folder, (then, then))


def test_a_folder_of_a_killed_process_is_removed_and_that_of_a_living_one_stays(home: Path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", HOLD], env=os.environ | {"TMPDIR": str(home)}, **pipes)
    assert process.stdout
    left = process.stdout.readline().strip()
    Path(left, "file").touch()
    age(left)
    with temporary_folder():
        assert Path(left, "file").exists()
    process.kill()
    process.communicate()
    with temporary_folder() as own:
        assert os.listdir(home) == [os.path.basename(own)]
    assert not os.listdir(home)


def test_what_is_young_or_bears_another_name_stays(home: Path):
    names = ["oddsmill-folder-young", "oddsmill-jax-of-tests", "oddsmill-folder-file"]
    for name in names[:2]:
        (home / name).mkdir()
    (home / names[2]).touch()
    for name in names[1:]:
        age(str(home / name))
    with temporary_folder():
        pass
    assert set(os.listdir(home)) == set(names)
