"""Workers that fail in the middle of their work: whoever tries again gets the bytes of an undisturbed run."""

import functools
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from apache_beam import DoFn
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from oddsmill.pipeline import PreprocessConfig, SourceConfig, preprocess, transforms
from tests.pipeline.conftest import Result

# Every DoFn of the graph, the call that fails, and which of its calls that is: the second, where a bundle has one.
POINTS = [
    ("DivideInputs", "process", 2),
    ("CountRows", "process", 2),
    ("NumberRows", "process", 2),
    ("MakePairs", "process", 2),
    ("MakePairs", "finish_bundle", 1),
    ("WriteShard", "process", 2),
    ("WriteEmptyShard", "process", 2),
    ("WriteRejects", "process", 2),
    ("WriteManifest", "process", 1),
]
FILES = 5
SETTINGS = {"max_length": 64, "max_prompt_length": 32, "overlong": "drop", "dedup": "exact"} | {
    "num_shards": 12,
    "eval_share": 0.2,
}


class Injected(Exception):
    """What a broken machine or a lost connection would raise."""


class Run(NamedTuple):
    """`run(output, *beam)` does again what gave `result`."""

    run: Callable[..., Result]
    result: Result


@pytest.fixture(scope="module")
def undisturbed(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with drops of the parser, of the length rules and of the duplicates, and with shards without a pair."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for file in range(FILES):
        good = [{"prompt": f"Question {file}", "chosen": f" yes {n}", "rejected": " no" * (n + 1)} for n in range(6)]
        rows = [*good, {"prompt": "x"}, good[0], good[0] | {"prompt": f"{file} long " * 40}]
        lines = [json.dumps(row) + "\n" for row in rows]
        (folder / f"{file}.jsonl").write_text("".join(lines) + "broken\n")

    def run(output: Path, *beam: str) -> Result:
        source = SourceConfig(path=str(folder / "*.jsonl"))
        config = PreprocessConfig(source=source, tokenizer=str(tokenizer_folder), output=str(output), **SETTINGS)
        preprocess(config, beam_arguments=beam)
        return Result(output, [])

    return Run(run, run(folder / "out"))


def inject(monkeypatch: pytest.MonkeyPatch, do_fn: str, method: str, from_call: int) -> None:
    """Lets one call raise once it has done its work and given its outputs but the last: the n-th, or where that one
    is broken off by another failure, the next."""
    owner = getattr(transforms, do_fn)
    sound = getattr(owner, method)
    calls, failed = itertools.count(1), False

    @functools.wraps(sound)
    def call(*arguments: Any, **options: Any) -> Iterator[Any]:
        nonlocal failed
        fails = next(calls) >= from_call and not failed
        outputs = list(sound(*arguments, **options))
        yield from outputs[:-1] if fails else outputs
        if fails:
            failed = True
            raise Injected("a worker was lost")

    monkeypatch.setattr(owner, method, call)


def retry_bundles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes retries of what Beam's option repeats: the outputs of these times are thrown away in either.

    Returns: the messages of the failures so far; it grows.
    """
    repeat = FnApiRunner._run_bundle_multiple_times_for_testing
    failures: list[str] = []

    def attempt(runner: FnApiRunner, *arguments: Any) -> None:
        while True:
            try:
                return repeat(runner, *arguments)
            except Injected as failure:
                failures.append(str(failure))

    monkeypatch.setattr(FnApiRunner, "_run_bundle_multiple_times_for_testing", attempt)
    return failures


def assert_equal(result: Result, undisturbed: Result) -> None:
    assert result.digests == undisturbed.digests
    assert result.names == undisturbed.names
    assert result.rejects == undisturbed.rejects
    ledger = result.manifest["ledger"]
    assert ledger["rows_in"] == ledger["pairs_out"] + sum(ledger["drops"].values())


def test_bundles_that_fail_and_are_tried_again_leave_no_trace(
    undisturbed: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    failures = retry_bundles(monkeypatch)
    for point in POINTS:
        inject(monkeypatch, *point)
    result = undisturbed.run(tmp_path / "out", "--direct_runner_bundle_repeat=1")
    assert len(failures) == len(POINTS)
    assert_equal(result, undisturbed.result)


def test_the_table_has_every_function_of_the_graph(undisturbed: Run):
    do_fns = {name for name, value in vars(transforms).items() if isinstance(value, type) and issubclass(value, DoFn)}
    assert {name for name, _, _ in POINTS} == do_fns
    reasons = ("duplicate", "missing_field", "prompt_too_long", "unreadable")
    assert undisturbed.result.manifest["ledger"]["drops"] == dict.fromkeys(reasons, FILES)
    shards = undisturbed.result.manifest["splits"]["train"]["shards"]
    assert {bool(shard["records"]) for shard in shards} == {True, False}


@pytest.mark.slow
@pytest.mark.parametrize(("do_fn", "method", "from_call"), POINTS)
def test_a_run_that_fails_and_is_started_again_leaves_no_trace(
    undisturbed: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, do_fn: str, method: str, from_call: int
):
    inject(monkeypatch, do_fn, method, from_call)
    with pytest.raises(Injected):
        undisturbed.run(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"rejects", "unfinished.json"}
    assert_equal(undisturbed.run(tmp_path / "out"), undisturbed.result)
