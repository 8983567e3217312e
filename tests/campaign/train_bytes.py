"""Alters bytes of a checkpoint, of the files that describe a run, and of an export: refused, healed, or no difference.

Each byte of the small files is altered, and a thousand of the large ones. A case is the bytes of a few places of one
file; the cases of a whole campaign go through all of them.
"""

import contextlib
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from oddsmill.schemas.console import log
from oddsmill.schemas.errors import Refused, RunFailed
from oddsmill.train.__main__ import main
from oddsmill.train.config.export import ExportConfig
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.data.data_order import DataOrder
from oddsmill.train.data.verified_shards import read_verified_shards, verify_shards
from oddsmill.train.run_folder import read_run_folder
from oddsmill.train.weights.model_files import find_model
from tests.campaign.child import child
from tests.campaign.harness import Attack, Attempt, Broken, Case
from tests.campaign.model_folders import make_bases
from tests.train.checkpoint.test_checkpoints import Batches, opened, order_at, pairs_of, save, shapes, state_of

SMALL_BYTES, PLACES_OF_LARGE, PLACES_A_CASE = 4096, 1000, 40
_STRIDE = 7919  # a prime: a few cases are of all areas, and as many as there is work are all of it
# A line that is altered in these is another line: they are a log, and nothing is trained or exported from them.
NOT_CHECKED = ("metrics.jsonl", "samples.jsonl", "curves.png", "README.md")


class Work(NamedTuple):
    """Some places of one file: `area` is checkpoint, run or export, `file` its name within."""

    area: str
    file: str
    places: list[int]


class Ready(NamedTuple):
    """The whole folders by area, and all work there is."""

    folders: dict[str, Path]
    work: list[Work]


def ready(folder: Path) -> Ready:
    """Makes a run, its export, and two checkpoints."""
    log.setLevel("CRITICAL")
    base = make_bases(folder)[0]
    run = folder / "run"
    code = main(
        [
            "run", f"--data={folder / 'data'}", f"--model.path={base}", f"--run_dir={run}", "--max_steps=1",
            "--total_batch_size=4", "--report_to=[]", "--log_level=error",
        ]
    )  # fmt: skip
    assert code == 0
    with opened(folder / "checkpoints") as checkpoints:
        for step in (2, 4):
            save(checkpoints, step)
    for name in ("checkpoints", "curves.png"):
        shutil.rmtree(run / name, ignore_errors=True)
    shutil.copytree(run / "export", folder / "export")
    shutil.rmtree(run / "export")
    folders = {"checkpoint": folder / "checkpoints", "run": run, "export": folder / "export"}
    return Ready(folders, [work for area, place in folders.items() for work in work_of(area, place)])


def work_of(area: str, folder: Path) -> Iterator[Work]:
    """Yields the places of each file of an area; of checkpoints those of the newest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in NOT_CHECKED)
    for path in files:
        name = path.relative_to(folder).as_posix()
        size = path.stat().st_size
        if area == "checkpoint" and not name.startswith("4/"):
            continue
        places = list(range(size))
        if size > SMALL_BYTES:
            places = sorted(random.Random(name).sample(places, min(PLACES_OF_LARGE, size)))
        for first in range(0, size, PLACES_A_CASE):
            if places[first : first + PLACES_A_CASE]:
                yield Work(area, name, places[first : first + PLACES_A_CASE])


def alter_and_read(first: Ready, number: int, seed: int) -> tuple[list[str], dict[str, int]]:
    """Alters each place of one piece of work; returns what was done, and how often what came of it.

    Raises:
      Broken: an alteration was taken.
    """
    rng, work = random.Random(seed), first.work[number * _STRIDE % len(first.work)]
    whole = first.folders[work.area]
    altered = whole.with_name(f"altered-{work.area}")
    outcomes: dict[str, int] = {}
    for place in work.places:
        if work.area == "checkpoint" or not altered.exists():
            shutil.rmtree(altered, ignore_errors=True)
            shutil.copytree(whole, altered)
        path = altered / work.file
        content = (whole / work.file).read_bytes()
        bit = rng.choice((1, 2, 4, 8, 16, 32, 64, 128, 255))
        path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        try:
            outcome = READERS[work.area](altered)
        except (Refused, RunFailed):
            outcome = "refused"
        except Broken as broken:
            raise Broken(f"{work.area} {work.file}, byte {place} ^ {bit}: {broken}") from None
        except Exception as error:
            raise Broken(f"{work.area} {work.file}, byte {place} ^ {bit}: {type(error).__name__}: {error}") from error
        if path.exists():  # a damaged checkpoint lies aside
            path.write_bytes(content)
        outcomes[f"{work.area}: {outcome}"] = outcomes.get(f"{work.area}: {outcome}", 0) + 1
    return [f"{work.area} {work.file}, {len(work.places)} places from {work.places[0]}"], outcomes


def read_checkpoint(folder: Path) -> str:
    """Goes on from the newest checkpoint, as a run does."""
    batches, order = Batches(), DataOrder()
    with opened(folder) as checkpoints:
        checkpoints.check_identity()
        step, state, notes = checkpoints.restore(shapes(), batches, order, pair_ids_of=pairs_of, frozen_digest=None)
    same = jax.tree.map(lambda a, b: np.array_equal(np.asarray(a), np.asarray(b)), state, state_of(step))
    if not all(jax.tree.leaves(same)) or notes != {"at": step} or batches.position != step:
        raise Broken(f"another checkpoint of step {step}: {notes}, {batches.position}")
    if order.digest != order_at(step).digest:
        raise Broken(f"another order of step {step}")
    return "equal" if step == 4 else "healed"


def read_run(folder: Path) -> str:
    """Reads what describes a run, as an evaluation, a generation and an export do, and what the next start reads."""
    run = read_run_folder(ExportConfig(run_dir=str(folder), out="out"), command="test")
    datasets = [run.data, run.eval_data]
    known = read_verified_shards(run.files.verified_shards)
    found = verify_shards(datasets, known)
    if known != found and any(found.get(path) == known.get(path) for path in found.keys() ^ known.keys()):
        raise Broken("shards that are not there count as verified")
    return "equal" if known == found else "healed"


def read_export(folder: Path) -> str:
    """Finds a model, as every command that loads one does."""
    find_model(ModelConfig(path=str(folder)))
    return "equal"


READERS: dict[str, Any] = {"checkpoint": read_checkpoint, "run": read_run, "export": read_export}


@contextlib.contextmanager
def prepare_attack(folder: Path) -> Iterator[Attempt]:
    """Yields the function that tries one case."""
    with child(__name__, folder, longest_s=300) as process:

        def attempt(case: Case) -> None:
            done, outcomes = process.call("alter_and_read", case.seed % 10_000_000, case.seed)
            for what in done:
                case.did(what)
            for outcome, count in outcomes.items():
                case.saw(outcome, count)

        yield attempt


ATTACK = Attack(
    "an altered byte of a checkpoint, of a run's folder or of an export is refused, healed, or makes no difference",
    prepare=prepare_attack,
    longest_s=700,
)
