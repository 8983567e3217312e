"""Kills runs of the trainer again and again, from their imports to their export: each ends as one that never was.

A case takes one run, stops it up to four times by a signal at a moment of its life that is drawn, and lets the same
command end it. Exit codes are those of docs/howto/leave_a_run_alone.md, and nothing waits longer than a minute.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.campaign.harness import Attack, Attempt, Case
from tests.datasets import packed, random_pairs, write_dataset
from tests.train.curves import logged
from tests.train.decoders import TINY, VOCAB_SIZE

ROOT = Path(__file__).parents[2]
LONGEST_S = 60.0  # from a signal to the end
NUM_STEPS, SAVE_STEPS = 60, 5
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PLACES = ("imports", "start", "anywhere", "step", "save", "evaluation", "end", "export")


class Folder(NamedTuple):
    """A run's inputs, and the run that was not disturbed.

    Attributes:
      arguments: of `train run`, without the run's folder.
      processes: how many make one run.
      seconds: how long the undisturbed run took.
    """

    folder: Path
    arguments: list[str]
    processes: int
    seconds: float

    @property
    def whole(self) -> Path:
        return self.folder / "whole"


def start(
    folder: Path, arguments: Sequence[str], run_dir: Path, processes: int, *, of_second: Sequence[str] | None = None
) -> list[subprocess.Popen[bytes]]:
    """Starts the processes of a run, whose output is added to files beside its folder.

    Args:
      of_second: the arguments of the second, where they are others.
    """
    from tests.train.parallel.test_processes import free_port

    port, started = free_port(), []
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    cache |= {"JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1", "JAX_PLATFORMS": "cpu"}
    for index in range(processes):
        command = [
            sys.executable,
            "-m",
            "oddsmill",
            "train",
            "run",
            *(of_second if index and of_second else [*arguments, f"--run_dir={run_dir}"]),
        ]
        if processes > 1:
            given = {"coordinator_address": f"localhost:{port}", "num_processes": processes, "process_id": index}
            given["initialization_timeout"] = 45  # how long one waits for another that was killed before it joined
            command += [f"--distributed.{name}={value}" for name, value in given.items()]
        with output_of(run_dir, index).open("ab") as output:
            # A session of its own: a signal that the campaign itself gets is not the run's.
            started.append(
                subprocess.Popen(
                    command, cwd=ROOT, stdout=output, stderr=output, env=os.environ | cache, start_new_session=True
                )
            )
    return started


def write_inputs(folder: Path) -> list[str]:
    """Writes a small dataset and a tiny model; returns the arguments of a run on them."""
    rows = packed(random_pairs(np.random.default_rng(0), 120, vocab_size=VOCAB_SIZE), 32)
    splits = {"train": rows[6:], "eval": rows[:6]}
    write_dataset(folder / "data", splits, row_length=32, vocab_size=VOCAB_SIZE, shards=2)
    (folder / "config.json").write_text(json.dumps(TINY))
    return [
        f"--data={folder / 'data'}", f"--model.config={folder / 'config.json'}", f"--max_steps={NUM_STEPS}",
        f"--save_steps={SAVE_STEPS}", "--eval_steps=10", "--total_batch_size=4", "--learning_rate=1e-2",
        "--gradient_checkpointing=false", "--load_best_model_at_end=true", "--early_stopping_patience=100",
    ]  # fmt: skip


def output_of(run_dir: Path, index: int) -> Path:
    """The file that holds what a process printed."""
    return run_dir.with_name(f"{run_dir.name}-{index}.txt")


@contextlib.contextmanager
def prepare_runs(folder: Path, *, processes: int) -> Iterator[Attempt]:
    """Makes the inputs and the undisturbed run; yields the function that tries one case."""
    arguments = write_inputs(folder)
    seconds = 0.0
    for name in ("warm", "whole"):  # the first compiles, the second tells how long a run takes
        began = time.monotonic()
        started = start(folder, arguments, folder / name, processes)
        codes = [process.wait(600) for process in started]
        assert codes == [0] * processes, output_of(folder / name, 0).read_text()[-3000:]
        seconds = time.monotonic() - began
    runs = Folder(folder, arguments, processes, seconds)
    assert ended_alike(runs, folder / "warm") is None
    yield partial(try_run, runs)


def ended_alike(runs: Folder, run_dir: Path) -> str | None:
    """Says in what a run differs from the undisturbed one; None where in nothing."""
    found, expected = _metrics(run_dir, runs.processes), _metrics(runs.whole, runs.processes)
    if found != expected:
        apart = [pair for pair in zip(found, expected, strict=False) if pair[0] != pair[1]]
        return f"other metrics, of {len(found)} and {len(expected)} lines: {apart[:1]}"
    if files_of(run_dir / "export") != files_of(runs.whole / "export"):
        return "another export"
    steps = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (run_dir, runs.whole)]
    if steps[0] != steps[1]:
        return f"other checkpoints: {steps}"
    left = [str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if is_left_over(path.name)]
    return f"files are left: {left}" if left else None


def _metrics(run_dir: Path, processes: int) -> list[dict[str, Any]]:
    """Returns the lines of a run; several processes know the order of the data at saves alone, and signals add some."""
    lines = logged(run_dir)
    if processes == 1:
        return lines
    return [{name: value for name, value in line.items() if name != "data_order"} for line in lines]


def is_left_over(name: str) -> bool:
    """Tells whether a file is one that no ended run leaves."""
    return any(part in name for part in ("tmp", "unfinished", ".former", ".lock"))


def files_of(folder: Path) -> dict[str, bytes]:
    """Returns the content of every file, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def try_run(runs: Folder, case: Case) -> None:
    """Stops a run up to four times, lets it end, and compares it with the undisturbed one."""
    run_dir = runs.folder / f"run-{case.seed}"
    for _ in range(case.rng.randint(1, 4)):
        started = start(runs.folder, runs.arguments, run_dir, runs.processes)
        if not _stop(case, runs, run_dir, started):
            break
    started = start(runs.folder, runs.arguments, run_dir, runs.processes)
    codes = _codes(case, started, "the last start", longest_s=4 * LONGEST_S)
    printed = "".join(output_of(run_dir, index).read_text(errors="replace") for index in range(runs.processes))
    case.expect(codes == [0] * runs.processes, f"the last start ends with {codes}:\n{printed[-3000:]}")
    for trace in ("Traceback", "Segmentation", "Fatal Python", "core dumped", "Exception ignored"):
        at = printed.find(trace)
        case.expect(at < 0, f"{trace}:\n{printed[max(at - 500, 0) : at + 2500]}")
    problem = ended_alike(runs, run_dir)
    case.expect(problem is None, f"{problem}:\n{printed[-2000:]}")
    case.saw("runs that equal the undisturbed one")


def _stop(case: Case, runs: Folder, run_dir: Path, started: list[subprocess.Popen[bytes]]) -> bool:
    """Sends a signal at a drawn moment and waits for the end; returns whether there is something left to do."""
    rng, process = case.rng, case.rng.choice(started)
    place, number = rng.choice(PLACES), rng.choice(SIGNALS)
    again = rng.random() < 0.25 and number != signal.SIGKILL
    _wait_for(place, rng.random(), runs, run_dir, started[0])
    ended = [each.poll() for each in started]
    if all(code is not None for code in ended):
        case.did(f"{number.name} at {place} came too late")
        case.expect(not any(ended), f"the run ends by itself with {ended}:\n{_tail(run_dir)}")
        return False
    case.did(f"{number.name}{' twice' if again else ''} at {place} to process {started.index(process)}")
    process.send_signal(number)
    if again:
        time.sleep(rng.uniform(0, 1.5))
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(rng.choice((number, signal.SIGTERM, signal.SIGINT)))
    codes = _codes(case, started, f"{number.name} at {place}")
    allowed = (
        {0, 1, -number, 128 + number} if not again else {0, 1, *(-n for n in SIGNALS), *(128 + n for n in SIGNALS)}
    )
    # 1: another process is gone; 2: it never came. A run that was all but over ends as it would have.
    allowed = allowed - {1} if len(started) == 1 else allowed | {2}
    case.expect(set(codes) <= allowed, f"{number.name} at {place}: exit codes {codes}:\n{_tail(run_dir)}")
    case.saw(f"{number.name} at {place}")
    case.saw("kills")
    return any(codes)


def _tail(run_dir: Path) -> str:
    return "\n---\n".join(
        path.read_text(errors="replace")[-3000:] for path in sorted(run_dir.parent.glob(f"{run_dir.name}-?.txt"))
    )


def _codes(
    case: Case, started: Sequence[subprocess.Popen[bytes]], what: str, *, longest_s: float = LONGEST_S
) -> list[int]:
    """Waits for the processes of a run; returns their exit codes."""
    end = time.monotonic() + longest_s
    codes: list[int] = []
    for process in started:
        try:
            codes.append(process.wait(max(end - time.monotonic(), 0.1)))
        except subprocess.TimeoutExpired:
            for each in started:
                each.kill()
                each.wait()
            case.expect(False, f"{what}: process {started.index(process)} hangs")
    return codes


def _wait_for(place: str, share: float, runs: Folder, run_dir: Path, process: subprocess.Popen[bytes]) -> None:
    """Waits until a run is at a place of its life, and a little more.

    Args:
      share: a number in [0, 1) that says how far into it.
    """
    checkpoints, metrics = run_dir / "checkpoints", run_dir / "metrics.jsonl"
    had = set(checkpoints.iterdir()) if checkpoints.exists() else set()
    lines = _text(metrics).count("\n")

    def saves() -> bool:
        return checkpoints.exists() and any("tmp" in path.name for path in set(checkpoints.iterdir()) - had)

    waits: dict[str, tuple[Callable[[], bool], float]] = {
        "imports": (lambda: True, 0.4 * runs.seconds),
        "start": (run_dir.exists, 0.3 * runs.seconds),
        "anywhere": (lambda: True, runs.seconds),
        "step": (lambda: _text(metrics).count("\n") > lines + int(share * 30), 0.02),
        "save": (saves, 0.05),
        "evaluation": (lambda: _text(metrics).count("eval/loss") > share * 5, 0.05),
        "end": (lambda: f'"step": {NUM_STEPS},' in _text(metrics), 1.0),
        "export": (lambda: any(run_dir.glob("*export*")), 0.05),
    }
    is_there, longest_s = waits[place]
    while process.poll() is None and not is_there():
        time.sleep(0.002)
    time.sleep(share * longest_s)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


ATTACK = Attack(
    "a run that is killed at any moments of its life ends as one that never was",
    prepare=partial(prepare_runs, processes=1),
    longest_s=900,
)
