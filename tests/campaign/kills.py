"""Stage one, killed at any moment of its life: nothing that is left looks done, and the same command gives the bytes of
an undisturbed run. On a disk and on stores, by threads and by processes, by every signal that ends a program; and a
worker alone.
"""

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from oddsmill.schemas.locks.lock import is_lock
from oddsmill.schemas.manifest import parse_manifest
from tests.campaign.harness import Attack, Attempt, Broken, Case
from tests.campaign.templates import TOKENIZER
from tests.cloud_storage import FakeStorage
from tests.pipeline.input.files import as_csv, as_parquet

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "recipes" / "tiny" / "pairs.jsonl"
SETTINGS = ("--max_length=32", "--overlong=drop", "--dedup=exact", "--eval_share=0.2", "--num_shards=5")
OURS = ("--dataset_num_proc=3",)
PROCESSES = ("--", "--direct_running_mode=multi_processing", "--direct_num_workers=2")
# Each with the exit codes of a run that it ends in good order.
SIGNALS = {
    signal.SIGKILL: (-signal.SIGKILL,),
    signal.SIGTERM: (143,),
    signal.SIGINT: (130,),
    signal.SIGHUP: (129,),
}
# The store of tests/disk_store.py is one that only Python knows: it must be imported first.
# In a store nobody can tell but by watching whether a run lives: here for seconds, not for a minute and a half.
PROGRAM = (
    "import sys, tests.disk_store\nfrom oddsmill.__main__ import main\n"
    "from oddsmill.schemas.locks import lock\nlock.RENEW_S, lock.STALE_S = 1, 8\n"
    "if __name__ == '__main__': sys.exit(main(sys.argv[1:]))\n"
)
IGNORED = ("run.json",)  # it has the seconds of the run


class Way(NamedTuple):
    """A way to run: where the output lies, and how the work is spread."""

    name: str
    output: str
    spread: tuple[str, ...] = ("--dataset_num_proc=1",)


def write_inputs(folder: Path) -> None:
    """Writes files of three kinds, with broken rows, duplicates and rows that are too long."""
    folder.mkdir()
    lines = ROWS.read_text().splitlines()[:600]
    rows = [json.loads(line) for line in lines]
    long = {"prompt": "long " * 90, "chosen": "a", "rejected": "b"}
    (folder / "a.jsonl").write_text("\n".join([*lines[:200], "broken", json.dumps({"prompt": "x"}), json.dumps(long)]))
    columns = ("prompt", "chosen", "rejected")
    plain = [{name: row[name] for name in columns} for row in rows]
    (folder / "b.csv").write_bytes(as_csv([*plain[200:400], *plain[:9]], ","))
    (folder / "c.parquet").write_bytes(as_parquet(plain[400:]))


class Stage:
    """Stage one on inputs of its own, in processes of its own."""

    def __init__(self, folder: Path, storage: FakeStorage):
        self._folder, self._storage = folder, storage
        write_inputs(folder / "in")
        (folder / "program.py").write_text(PROGRAM)
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "STORAGE_EMULATOR_HOST": storage.address,
            "TMPDIR": str(folder / "tmp"),
        }
        (folder / "tmp").mkdir()

    def ways(self, number: int) -> list[Way]:
        """Returns the ways to run, each with an output that the number alone has."""
        disk = f"{self._folder}/out-{number}"
        return [
            Way("threads to a disk", disk),
            Way("processes to a disk", disk, PROCESSES),
            Way("processes of ours to a disk", disk, OURS),
            Way("processes of ours to gs://", f"gs://bucket/ours-{number}", OURS),
            Way("threads to a store", f"store:/{disk}"),
            Way("threads to gs://", f"gs://bucket/out-{number}"),
        ]

    def start(self, way: Way) -> "subprocess.Popen[str]":
        """Starts a run, as the leader of a group of processes of its own."""
        source = f"--source.path={self._folder}/in/*"
        command = [str(self._folder / "program.py"), "pipeline", "run", source, f"--tokenizer={TOKENIZER}", *SETTINGS]
        return subprocess.Popen(
            [sys.executable, *command, f"--output={way.output}", *way.spread],
            cwd=ROOT,
            env=self.environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def files(self, way: Way) -> dict[str, bytes]:
        """Returns what lies in an output, by name."""
        if way.output.startswith("gs://"):
            prefix = way.output.removeprefix("gs://") + "/"
            objects = self._storage.objects
            return {key.removeprefix(prefix): value for key, value in [*objects.items()] if key.startswith(prefix)}
        folder = Path("/" + way.output.removeprefix("store:").strip("/"))
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """Returns the digests of all that must be the same after every run."""
    kept = {name: content for name, content in files.items() if name not in IGNORED and not is_lock(name)}
    return {name: hashlib.sha256(content).hexdigest() for name, content in kept.items()}


def wait(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Waits for a run to end, and for all that it began; returns its exit code and what it printed.

    Raises:
      Broken: it does not end, or processes of it live on.
    """
    try:
        printed, _ = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise Broken(f"a run does not end within 60 s:\n{process.communicate()[0]}") from None
    deadline = time.monotonic() + 30
    while left := group(process.pid):
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            raise Broken(f"processes of an ended run live on: {left}\n{printed}")
        time.sleep(0.05)
    return process.returncode, printed


def group(leader: int) -> dict[int, str]:
    """Returns the command lines of the living processes of a group, by their number."""
    members = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            if fields[0] != "Z" and int(fields[2]) == leader:
                line = (status.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:300]
                members[int(status.parent.name)] = line
    return members


@contextlib.contextmanager
def prepare(folder: Path) -> Iterator[Attempt]:
    """Measures how long an undisturbed run of each way lives, and what it leaves."""
    storage = FakeStorage()
    stage = Stage(folder, storage)
    lives, expected = {}, {}
    for index in range(len(stage.ways(0))):
        way = stage.ways(-index)[index]
        started = time.monotonic()
        code, printed = wait(stage.start(way))
        lives[way.name] = time.monotonic() - started
        if code:
            raise Broken(f"an undisturbed run fails: {printed}")
        expected[way.name] = digests(stage.files(way))
    if len({json.dumps(each, sort_keys=True) for each in expected.values()}) > 1:
        raise Broken(f"runs of different ways give different bytes: {expected}")

    def attempt(case: Case) -> None:
        try_kill(case, stage, lives, expected)

    try:
        yield attempt
    finally:
        storage.close()


def try_kill(case: Case, stage: Stage, lives: Mapping[str, float], expected: Mapping[str, dict[str, str]]) -> None:
    """Kills a run, looks at what it left, and runs it again."""
    rng = case.rng
    way = rng.choice(stage.ways(case.seed))
    for _ in range(rng.choice((1, 1, 1, 2))):
        of_worker = way.spread == OURS and rng.random() < 0.4
        (kill_worker if of_worker else kill)(case, stage, way, rng, lives[way.name])
        _check_left(case, stage.files(way), expected[way.name])
    code, printed = wait(stage.start(way))
    case.expect(code == 0, f"the same command ends well, and not with {code}:\n{printed}")
    files = stage.files(way)
    case.expect("Traceback" not in printed, f"it prints no traceback:\n{printed}")
    case.expect(digests(files) == expected[way.name], f"it gives the same bytes: {digests(files)} {expected[way.name]}")
    manifest = parse_manifest(files["manifest.json"], path="manifest.json")
    case.expect(json.loads(files["run.json"])["manifest_sha256"] == manifest.sha256, "run.json is of this manifest")
    case.saw("the same bytes afterwards")


def kill(case: Case, stage: Stage, way: Way, rng: random.Random, life_s: float) -> None:
    """Sends a signal to a run, or to all of its group as a terminal does; sometimes it sends it twice."""
    number = rng.choice([signal.SIGKILL, *SIGNALS])
    of_group, twice = rng.random() < 0.5, number != signal.SIGKILL and rng.random() < 0.3
    delay = rng.uniform(0, 1.05 * life_s)
    case.did(f"{way.name}: {number.name}{' twice' * twice} to {'the group' if of_group else 'it'} after {delay:.2f} s")
    process = stage.start(way)
    time.sleep(delay)
    for _ in range(1 + twice):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number) if of_group else process.send_signal(number)
        time.sleep(0.05 * twice)
    code, printed = wait(process)
    case.saw(f"{number.name} ends with {code}")
    # A signal that comes before Python listens ends it as the system does; one that comes late ends nothing.
    codes = (0, *SIGNALS[number], -number)
    case.expect(code in codes, f"{number.name} ends a run with one of {codes}, and not with {code}:\n{printed}")
    # The workers that a killed process leaves say what they miss.
    case.expect(number == signal.SIGKILL or "Traceback" not in printed, f"a signal prints no traceback:\n{printed}")


def kill_worker(case: Case, stage: Stage, way: Way, rng: random.Random, life_s: float) -> None:
    """Kills one of the processes that a run has started, as the system does where memory is short."""
    delay = rng.uniform(0, 1.05 * life_s)
    case.did(f"{way.name}: SIGKILL to a worker after {delay:.2f} s")
    process = stage.start(way)
    time.sleep(delay)
    workers = sorted(group(process.pid).keys() - {process.pid})
    with contextlib.suppress(ProcessLookupError):
        if workers:
            os.kill(rng.choice(workers), signal.SIGKILL)
    code, printed = wait(process)
    case.saw(f"without a worker it ends with {code}")
    case.expect(code in (0, 1), f"a run without a worker ends with 0 or 1, and not with {code}:\n{printed}")
    case.expect(
        code == 0 or "failed: a worker process was lost (ended by SIGKILL)" in printed, f"it says so:\n{printed}"
    )
    case.expect("Traceback" not in printed, f"a lost worker prints no traceback:\n{printed}")


def _check_left(case: Case, files: Mapping[str, bytes], expected: Mapping[str, str]) -> None:
    """What a killed run left does not look done, unless it is."""
    if "manifest.json" not in files or "unfinished.json" in files:
        case.saw("left undone" if files else "left nothing")
        return
    left = digests(files)
    case.expect(left == expected, f"what looks done is done: {left} {expected}")
    case.saw("left whole")


ATTACK = Attack(
    "stage one killed at any moment, run again: the bytes of an undisturbed run", prepare=prepare, longest_s=400
)
