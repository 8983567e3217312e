"""Runs that are spread over processes of ours: the bytes of one process, and one message where one is lost."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.resolved_run import resolve_run
from oddsmill.pipeline.workers import worker
from oddsmill.pipeline.workers.pool import WorkerPool, started_pool
from oddsmill.schemas.errors import Refused, RunFailed
from tests.pipeline.conftest import messages
from tests.pipeline.input.files import KINDS

ROOT = Path(__file__).parents[3]
SETTINGS = {"num_shards": 3, "eval_share": 0.2, "dedup": "exact"}
SCRIPT = """
from oddsmill.pipeline import PreprocessConfig, SourceConfig, preprocess

preprocess(PreprocessConfig(
    source=SourceConfig(path="rows.jsonl", format="own:pair"),
    tokenizer={tokenizer!r}, output="out", max_length=64, dataset_num_proc=2,
))
print("done")
"""
OWN_FORMAT = """
import signal, subprocess

def pair(row):
    if row["prompt"] == "tell":
        print("blocked:", signal.pthread_sigmask(signal.SIG_BLOCK, []))
        print("sleep ended by", subprocess.run(["timeout", "-s", "INT", "0.1", "sleep", "9"]).returncode)
    return row
"""


def pair_or_end(row: dict[str, Any]) -> dict[str, Any] | None:
    """Is a format of rows that ends a worker at one of them, and that drops others."""
    if row["prompt"] in ("kill", "leave") and os.environ["LAUNCHER"] != str(os.getpid()):
        os.kill(os.getpid(), signal.SIGKILL) if row["prompt"] == "kill" else os._exit(0)
    print("a row", flush=True)
    return None if row["prompt"] == "drop" else row


@pytest.fixture
def rows(triples: Callable) -> list[dict[str, Any]]:
    """Rows of several batches, with drops of the format and with exact duplicates."""
    return [*triples(900), triples(1)[0] | {"prompt": "drop"}, {"prompt": "x"}, *triples(20)]


def files(folder: Path) -> dict[str, bytes]:
    """The content of all files that do not say when the run was."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "run.json"
    }


@contextmanager
def nobody_reads_the_output() -> Iterator[None]:
    """Lets the standard output of processes that the body starts be a pipe whose reader has left."""
    before, (reader, writer) = os.dup(1), os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    os.close(writer)
    try:
        yield
    finally:
        os.dup2(before, 1)
        os.close(before)


def test_every_byte_is_that_of_one_process_of_files_of_every_kind(
    run: Callable, write_rows: Callable, rows: list[Any], triples: Callable, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setenv("LAUNCHER", "")
    path = write_rows("rows.jsonl", rows)
    (tmp_path / "kinds").mkdir()
    for number, (name, content) in enumerate(KINDS.items()):
        (tmp_path / "kinds" / name).write_bytes(content(triples(1200)[15 * number :][:30]))
    sources = [{"path": str(path), "format": f"{__name__}:pair_or_end"}, {"path": str(tmp_path / "kinds" / "*")}]
    alone = run("alone", source=sources, dataset_num_proc=1, **SETTINGS)
    with nobody_reads_the_output():
        spread = run("spread", source=sources, dataset_num_proc=3, **SETTINGS)
    assert {reject["reason"] for reject in alone.rejects} == {"user_function", "missing_field", "duplicate"}
    assert files(spread.folder) == files(alone.folder)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # no process is left


@pytest.mark.parametrize(
    ("what", "how"),
    [("kill", "ended by SIGKILL"), pytest.param("leave", "exit code 0", marks=pytest.mark.slow)],
)
def test_a_lost_worker_ends_the_run_by_one_message(
    what: str, how: str, run: Callable, write_rows: Callable, rows: list[Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setenv("LAUNCHER", str(os.getpid()))
    path = write_rows("rows.jsonl", [*rows, rows[0] | {"prompt": what}])
    with pytest.raises(RunFailed, match=rf"^a worker process was lost \({how}\)\. Was it killed for want of"):
        run("out", path, source={"format": f"{__name__}:pair_or_end"}, dataset_num_proc=2)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_a_worker_that_is_lost_while_it_writes_a_shard_ends_the_run_too(
    run: Callable, write_rows: Callable, rows: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    submit = WorkerPool.submit

    def submit_and_kill(pool: WorkerPool, *job: Any, note: Any = None) -> list[tuple[Any, Any]]:
        done = submit(pool, *job, note=note)
        if job[0] == "shard" and (left := children(pool._server.pid)):
            os.kill(left[0], signal.SIGKILL)
        return done

    monkeypatch.setattr(WorkerPool, "submit", submit_and_kill)
    with pytest.raises(RunFailed, match=r"^a worker process was lost \(ended by SIGKILL\)"):
        run("out", write_rows("rows.jsonl", rows), dataset_num_proc=2, **SETTINGS)
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"rejects", "unfinished.json"}


def children(process: int) -> list[int]:
    """The processes that a process has started and that it has not waited for."""
    return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.slow
def test_where_a_fork_is_not_safe_each_worker_is_started_by_itself(
    run: Callable, write_rows: Callable, rows: list[Any], monkeypatch: pytest.MonkeyPatch
):
    path = write_rows("rows.jsonl", rows)
    alone = run("alone", path, dataset_num_proc=1, **SETTINGS)
    not_forking = "    from oddsmill.pipeline.workers import worker\n    worker._may_fork = lambda: False\n    main()"
    monkeypatch.setattr(worker, "COMMAND", worker.COMMAND.replace("    main()", not_forking))
    assert "_may_fork" in worker.COMMAND
    spread = run("spread", path, dataset_num_proc=2, **SETTINGS)
    assert files(spread.folder) == files(alone.folder)


def test_what_cannot_be_loaded_is_refused_here(
    write_rows: Callable, triples: Callable, tokenizer_folder: Path, tmp_path
):
    source = SourceConfig(path=str(write_rows("rows.jsonl", triples(9))))
    config = PreprocessConfig(source=source, tokenizer=str(tokenizer_folder), output=str(tmp_path / "out"))
    with started_pool(2) as pool:
        assert pool is not None
        pool.choose_engine(resolve_run(config))
        pool.begin(resolve_run(config))
        assert pool.engine.name == "tokenizers" and "so small" in pool.engine.reason
        with pytest.raises(Refused, match=r"out/tokenizer has no tokenizer\.json"):
            pool.ask_each("finish")


def test_an_engine_is_refused_before_the_folder_of_an_earlier_dataset_is_cleared(
    run: Callable, write_rows: Callable, triples: Callable, tokenizer_folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    begin = Mock()
    monkeypatch.setattr("oddsmill.pipeline.output.folder.begin", begin)
    altered = tmp_path / "altered"
    shutil.copytree(tokenizer_folder, altered)
    settings = json.loads((altered / "tokenizer.json").read_text())
    pattern = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    (altered / "tokenizer.json").write_text(json.dumps(settings | {"pre_tokenizer": pattern}))
    path = write_rows("rows.jsonl", triples(9))
    with pytest.raises(Refused, match=r"^--tokenizer_engine=fastokens: fastokens may need other steps"):
        run("out", path, tokenizer=str(altered), tokenizer_engine="fastokens", dataset_num_proc=2)
    begin.assert_not_called()


def test_a_pool_that_got_no_run_ends_at_once():
    started = time.monotonic()
    with pytest.raises(Refused), started_pool(2):
        raise Refused("the rows cannot be read")
    assert time.monotonic() - started < 5


def test_where_no_process_can_be_started_there_is_one_message_or_this_process(monkeypatch: pytest.MonkeyPatch):
    def short(*_: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, "no process")

    monkeypatch.setattr("oddsmill.pipeline.workers.pool.start", short)
    with pytest.raises(RunFailed, match=r"^worker processes cannot be started \(no process\); raise"), started_pool(2):
        pass
    with messages() as lines, started_pool(2, needed=False) as pool:
        assert pool is None
    assert lines == ["processes  this one alone: no other can be started (no process)"]


def test_one_process_is_this_one():
    with started_pool(1) as pool:
        assert pool is None


@pytest.mark.slow
def test_a_script_needs_no_guard_and_runs_once(write_rows: Callable, rows: list[Any], tokenizer_folder: Path, tmp_path):
    write_rows("rows.jsonl", [*rows, rows[0] | {"prompt": "tell"}])
    (tmp_path / "own.py").write_text(OWN_FORMAT)
    (tmp_path / "script.py").write_text(SCRIPT.format(tokenizer=str(tokenizer_folder)))
    ended = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    # The signals that a worker ignores end what a user's function starts; what it prints is not lost.
    assert (ended.returncode, ended.stdout) == (0, "blocked: set()\nsleep ended by 124\ndone\n"), ended.stderr
