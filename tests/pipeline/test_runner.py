"""Beam's options, the choice of runner, and what of a run reaches the console."""

import dataclasses
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import apache_beam as beam
import pytest

from oddsmill.pipeline import PreprocessConfig, SourceConfig, runner
from oddsmill.pipeline.input.parts import Input
from oddsmill.pipeline.runner import beam_flags, count_workers, make_pipeline, run_graph, temporary_for
from oddsmill.schemas.errors import Refused, RunFailed
from oddsmill.schemas.process.threads import NoThreads
from tests import disk_store  # noqa: F401 - serves store://
from tests.pipeline.conftest import messages


def config(**beam_options: Any) -> PreprocessConfig:
    return PreprocessConfig(source=SourceConfig(path="x"), tokenizer="x", output="out", beam_options=beam_options)


def test_options_are_flags_and_those_of_the_command_line_come_last():
    options = {"streaming": True, "save_main_session": False, "experiments": ["a", "b"], "direct_num_workers": 2}
    assert beam_flags(config(**options), ["--direct_num_workers=1"]) == [
        "--streaming",
        "--experiments=a",
        "--experiments=b",
        "--direct_num_workers=2",
        "--direct_num_workers=1",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--direct_num_worker=2"],
            "Beam does not know the option --direct_num_worker; did you mean --direct_num",
        ),
        (["--direct_num_workers=x"], "Beam options: argument --direct_num_workers: invalid int value: 'x'"),
        (["--runner=NoRunner"], "Beam: .*NoRunner"),
    ],
)
def test_what_beam_does_not_know_is_refused(arguments: list[str], message: str):
    with pytest.raises(Refused, match=message):
        make_pipeline(config(), arguments)


@pytest.mark.parametrize(
    ("arguments", "mode"),
    [
        ([], "in_memory"),
        (["--direct_num_workers=2"], "multi_threading"),
        (["--direct_num_workers=2", "--direct_running_mode=multi_processing"], "multi_processing"),
    ],
)
def test_the_embedded_runner_is_the_default_and_several_workers_are_threads(arguments: list[str], mode: str):
    p = make_pipeline(config(), arguments)
    assert type(p.runner).__name__ == runner.EMBEDDED_RUNNER
    assert p.options.get_all_options()["direct_running_mode"] == mode


@pytest.mark.parametrize(
    ("raised", "message"),
    [(Refused("no such tokenizer"), "no such tokenizer$"), (ZeroDivisionError("oh"), "oh .while")],
)
def test_a_worker_refuses_in_one_message_and_other_errors_keep_their_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], raised: Exception, message: str
):
    def fail(_: int) -> None:
        logging.getLogger("apache_beam").error("a log of Beam")
        print("a traceback of a worker thread", file=sys.stderr)
        raise raised

    monkeypatch.setattr("oddsmill.pipeline.build.build", lambda p, *_, **__: p | beam.Create([1]) | beam.Map(fail))
    with pytest.raises(type(raised), match=f"^{message}"):
        run_graph(make_pipeline(config(), []), resolved=None)  # type: ignore[arg-type]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "changes", "problem"),
    [
        (["--direct_num_workers=2"], {}, "--direct_num_workers asks for Beam's workers"),
        (["--direct_running_mode=multi_processing"], {}, "--direct_running_mode=multi_processing has workers of"),
        (["--runner=PortableRunner", "--job_endpoint=embed"], {}, "--runner=PortableRunner has workers of its"),
        (["--runner=DirectRunner"], {}, "--runner=DirectRunner has workers of its own"),
        ([], {"source": SourceConfig(path="x", format="__main__:pair")}, "no other process finds the functions of __m"),
        ([], {"output": "memory://out"}, "no other process finds --output=memory://out"),
        ([], {"output": "store://tmp/out"}, "no other process finds --output=store://tmp/out"),
    ],
)
def test_processes_of_ours_are_refused_where_they_could_have_no_effect(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], changes: dict[str, Any], problem: str
):
    def settings(count: int | None) -> PreprocessConfig:
        return dataclasses.replace(config(), dataset_num_proc=count, **changes)

    inputs = [Input(path="x", files=["x"], text_bytes=1 << 40)]
    monkeypatch.setattr(runner, "usable_cores", lambda: 5)
    p = make_pipeline(config(), arguments)
    with pytest.raises(Refused, match=f"^--dataset_num_proc=2: {problem}.*; leave --dataset_num_proc out$"):
        count_workers(settings(2), inputs, p)
    assert count_workers(settings(None), inputs, p) == count_workers(settings(1), inputs, p) == 1


def test_there_is_a_process_for_each_core_as_far_as_limits_allow(monkeypatch: pytest.MonkeyPatch):
    inputs = [Input(path="x", files=["x"], text_bytes=1 << 40)]
    monkeypatch.setattr(runner, "usable_cores", lambda: 5)
    many = dataclasses.replace(config(), dataset_num_proc=7)
    assert [count_workers(config(), inputs), count_workers(config(), []), count_workers(many, [])] == [5, 1, 7]
    monkeypatch.setattr(runner, "connectable_processes", lambda: 3)
    with messages() as lines:
        assert count_workers(config(), inputs) == 3
    assert lines == ["processes  3 of 5: the limit on open files allows no more; raise it (ulimit -n)"]
    with pytest.raises(Refused, match=r"^--dataset_num_proc=7: the limit on open files allows 3; raise it"):
        count_workers(many, inputs)


@pytest.mark.parametrize(
    ("found", "given", "left", "lines"),
    [
        (500, None, 3, []),
        (240, None, 2, ["processes  2 of 3: want 296"]),
        (150, None, None, ["processes  1 of 3: want 296"]),
        (79, None, "want 80", []),
        (240, 3, "want 296, or give fewer processes", []),
    ],
)
def test_there_are_fewer_processes_where_threads_are_short(
    found: int, given: int | None, left: int | str | None, lines: list[str], monkeypatch: pytest.MonkeyPatch
):
    def check(count: int, what: str) -> None:
        if count > found:
            raise NoThreads(f"want {count}", found)

    pool = Mock(count=3)
    pool.keep.side_effect = lambda count: setattr(pool, "count", count)
    resolved = Mock(config=dataclasses.replace(config(), dataset_num_proc=given), num_shards={"train": 9})
    monkeypatch.setattr(runner, "check_threads", check)
    p = make_pipeline(config(), [])
    with messages() as told:
        if isinstance(left, str):
            with pytest.raises(NoThreads, match=left):
                runner._within_threads(p, resolved, pool)
        else:
            assert runner._within_threads(p, resolved, pool) is (pool if left else None)
            assert pool.count == (left or 3)
            assert pool.close.called is not bool(left)
    assert told == lines


def test_a_run_that_cannot_have_its_threads_ends_before_an_earlier_dataset_is_cleared(
    run: Callable, write_rows: Callable, triples: Callable, monkeypatch: pytest.MonkeyPatch
):
    def shortage(count: int, what: str) -> None:
        raise NoThreads(f"{what} takes {count}")

    path = write_rows("rows.jsonl", triples(9))
    earlier = run("out", path)
    before = earlier.digests
    monkeypatch.setattr(runner, "check_threads", shortage)
    for options, count in (((), 80), (("--direct_num_workers=3",), 136)):
        with pytest.raises(RunFailed, match=f"^preprocessing takes {count}$"):
            run("out", path, beam=options, seed=1, overwrite=True)
    assert earlier.digests == before


def test_beams_temporary_folder_is_one_of_ours_which_the_next_command_removes_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    p = make_pipeline(config(), [])
    assert not os.listdir(tmp_path)
    with temporary_for(p):
        (name,) = os.listdir(tmp_path)
        assert p.local_tempdir == str(tmp_path / name)
        assert name.startswith("oddsmill-folder-")
    assert not os.listdir(tmp_path)
