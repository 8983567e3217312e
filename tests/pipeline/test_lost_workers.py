"""A worker process that is killed, as for want of memory, ends the run by one message and leaves nothing."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oddsmill.schemas.errors import RunFailed


def die_in_a_worker(row: dict[str, Any]) -> dict[str, Any]:
    """Is a format of rows that the launcher can read, and that kills a worker at one of them."""
    if row["prompt"] == "kill" and os.environ["LAUNCHER"] != str(os.getpid()):
        os.kill(os.getpid(), signal.SIGKILL)
    return row


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_by_one_message(
    run: Callable, write_rows: Callable, triples: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LAUNCHER", str(os.getpid()))
    path = write_rows("rows.jsonl", [*triples(300), triples(1)[0] | {"prompt": "kill"}])
    beam = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    with pytest.raises(RunFailed, match=r"^a worker process was lost \(.*return code -?\d+\)\. Was it killed"):
        run("out", path, source={"format": f"{__name__}:die_in_a_worker"}, beam=beam)
    assert not list((tmp_path / "out").iterdir())
