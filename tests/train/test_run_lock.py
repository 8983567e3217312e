"""Two runs in one folder, two exports to one: the second is refused by the name of the first."""

from pathlib import Path

import jax
import pytest

from oddsmill.schemas.errors import Refused, RunFailed
from oddsmill.schemas.locks.lock import lock_inside
from oddsmill.schemas.locks.places import place_of
from oddsmill.train.run_lock import locked_export, locked_run_folder


def test_one_run_at_a_time_has_a_folder(tmp_path: Path):
    folder = str(tmp_path / "a" / "run")
    with locked_run_folder(folder) as lock:
        lock.check()
        with (
            pytest.raises(Refused, match=r"^--run_dir=\S+/a/run: oddsmill train run of .* is writing there; wait for"),
            locked_run_folder(folder),
        ):
            pass
        place_of(lock_inside(folder)).remove(1)
        with pytest.raises(RunFailed, match=r"^--run_dir=\S+ is no longer this run's: its lock \S+ was removed"):
            lock.check()


def test_the_processes_of_one_run_share_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with locked_run_folder(str(tmp_path)), locked_export(tmp_path / "export", what="--out=x", command="one"):
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        with (
            locked_run_folder(str(tmp_path)) as lock,
            locked_export(tmp_path / "export", what="--out=x", command="two"),
        ):
            lock.check()


def test_one_export_at_a_time_goes_to_a_folder(tmp_path: Path):
    with locked_export(tmp_path / "new" / "model", what="--out=model", command="oddsmill train export"):
        with (
            pytest.raises(Refused, match=r"--out=model: oddsmill train export of .* is writing there"),
            locked_export(tmp_path / "new" / "model", what="--out=model", command="oddsmill train export"),
        ):
            pass
        with locked_export(tmp_path / "new" / "other", what="--out=other", command="oddsmill train export"):
            pass
    assert list((tmp_path / "new").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused_by_the_setting(tmp_path: Path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(Refused, match=r"--run_dir=\S+: no folder can be made there"),
        locked_run_folder(f"{tmp_path}/file/run"),
    ):
        pass
    with (
        pytest.raises(Refused, match="--out=x: no folder can be"),
        locked_export(tmp_path / "file/x/y", what="--out=x", command=""),
    ):
        pass
