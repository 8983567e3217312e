"""Datasets of a hub that is served from a folder."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.hub_server import COMMIT, FakeHub

ROOT = Path(__file__).parents[3]


# Runs where HF_ENDPOINT is set before a library reads it: prints the rows, or the refusal, of each set of settings.
PROBE = """
import json, sys
from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.input.parts import numbered_parts, read_batches
from oddsmill.pipeline.input.sources import find_inputs
from oddsmill.pipeline.input.splits import slice_rows
from oddsmill.schemas.errors import Refused
for settings in json.loads(sys.argv[1]):
    try:
        inputs = find_inputs(SourceConfig(**settings))
        rows = [(inputs[row.origin.file].path, row.origin.row, row.values())
                for part in numbered_parts(inputs) for batch in read_batches(part) for row in batch]
        print(json.dumps({"rows": rows, "shards": sorted({file for source in inputs for file in source.files})}))
    except Refused as refused:
        print(json.dumps({"refused": str(refused)}))
"""


@pytest.fixture
def hub(tmp_path: Path, triples: Callable) -> Iterator[FakeHub]:
    """org/name: train in two Parquet files (100 rows), test in JSON lines (30); org/name has no other commit."""
    folder = tmp_path / "repository"
    (folder / "data").mkdir(parents=True)
    rows = triples(100)
    for number, some in enumerate((rows[:30], rows[30:])):
        target = folder / f"data/train-0000{number}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist(some), target, row_group_size=20)
    server = FakeHub(folder, "org/name")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def ask(tmp_path: Path, hub: FakeHub) -> Callable[..., list[dict[str, Any]]]:
    """Reads `hf://org/name` with each of the settings, in a process of its own."""

    def run(*settings: dict[str, Any], **environment: str) -> list[dict[str, Any]]:
        asked = json.dumps([{"path": "hf://org/name"} | some for some in settings])
        finished = subprocess.run(
            [sys.executable, "-c", PROBE, asked], cwd=ROOT, env=environment_of(hub, tmp_path) | environment,
            capture_output=True, text=True,
        )  # fmt: skip
        assert finished.returncode == 0, finished.stderr
        return [json.loads(line) for line in finished.stdout.splitlines()]

    return run


def environment_of(hub: FakeHub, folder: Path) -> dict[str, str]:
    return os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}


def test_splits_and_slices_of_a_hub_dataset(ask: Callable, triples: Callable, hub: FakeHub):
    rows = triples(100)
    whole, slices, unset = ask(
        {"split": "train", "revision": COMMIT}, {"split": "train[:5%] + train[28:32]+train[-1:]"}, {}
    )
    assert whole["rows"] == [["hf://org/name/train", number, row] for number, row in enumerate(rows)]
    assert unset == whole
    assert whole["shards"] == [
        f"hf://datasets/org/name@{COMMIT}/data/train-0000{number}-of-00002.parquet" for number in (0, 1)
    ]
    wanted = [*range(5), *range(28, 32), 99]
    assert slices["rows"] == [["hf://org/name/train", number, rows[number]] for number in wanted]


def test_rows_of_hub_files_that_must_be_read_to_be_counted(ask: Callable, triples: Callable, hub: FakeHub):
    rows = triples(40)
    for file in (hub.folder / "data").iterdir():
        file.unlink()
    for number, some in enumerate((rows[:15], rows[15:])):
        lines = "\n\n".join(json.dumps(row) for row in some)  # blank lines have no number in a split
        (hub.folder / f"data/train-0000{number}.jsonl").write_text(lines)
    found, beyond = ask({"split": "train[14:17]"}, {"split": "train[:41]"})
    assert found["rows"] == [["hf://org/name/train", number, rows[number]] for number in (14, 15, 16)]
    assert "41 is out of range, hf://org/name/train has 40 rows" in beyond["refused"]


def test_what_the_hub_does_not_have_is_refused_and_what_it_has_is_named(ask: Callable):
    for answer, expected in zip(
        ask(
            {"split": "dev"},
            {"split": "train[90:101]"},
            {"split": "train[5:5]"},
            {"split": "train[5%"},
            {"split": "train[:200%]"},
            {"name": "other"},
            {"path": "hf://org/name/other"},
            {"revision": "v9"},
            {"path": "hf://org/unknown"},
            {"path": "hf://nothing"},
        ),
        (
            "--source.split=dev: hf://org/name has no such split; there are train",
            "--source.split=train[90:101]: 101 is out of range, hf://org/name/train has 100 rows",
            "--source.split=train[5:5] is empty: hf://org/name/train has 100 rows",
            "--source.split=train[5%: Unrecognized instruction format",
            "--source.split=train[:200%]: Percent slice boundaries",
            "BuilderConfig 'other' not found. Available: ['default']",
            "BuilderConfig 'other' not found. Available: ['default']",
            "Revision 'v9' doesn't exist",
            "Dataset 'org/unknown' doesn't exist on the Hub",
            "write hf://org/name, or hf://org/name/config",
        ),
        strict=True,
    ):
        assert expected in answer["refused"]


def test_without_a_connection_the_cache_is_read(ask: Callable, hub: FakeHub, tmp_path: Path):
    before = ask({"split": "train[28:32]"})[0]["rows"]
    offline = {"HF_HUB_OFFLINE": "1"}
    (refused,) = ask({}, **offline)
    assert "--source.path=hf://org/name: " in refused["refused"]
    load = "import datasets; datasets.load_dataset('org/name')"
    subprocess.run([sys.executable, "-c", load], env=environment_of(hub, tmp_path), check=True, capture_output=True)
    asked = len(hub.asked)
    cached, unknown = ask({"split": "train[28:32]"}, {"split": "dev"}, **offline)
    assert cached["rows"] == before
    assert "has no such split; there are train" in unknown["refused"]
    assert len(hub.asked) == asked


def test_a_run_on_a_hub_dataset_makes_the_dataset_of_its_rows(
    run: Callable, write_rows: Callable, triples: Callable, hub: FakeHub, tokenizer_folder: Path, tmp_path: Path
):
    local = run("local", write_rows("rows.jsonl", triples(100)[:10]))
    finished = subprocess.run(
        [sys.executable, "-m", "oddsmill.pipeline", "run", "--source.path=hf://org/name", "--source.split=train[:10%]",
         f"--tokenizer={tokenizer_folder}", f"--output={tmp_path / 'hub'}", "--max_length=64",
         "--max_prompt_length=32"],
        cwd=ROOT, env=environment_of(hub, tmp_path), capture_output=True, text=True,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert type(local)(tmp_path / "hub", []).digests == local.digests
    listed = subprocess.run(
        [sys.executable, "-m", "oddsmill.pipeline", "inspect", str(tmp_path / "hub"), "--json"],
        cwd=ROOT,
        capture_output=True,
    )
    sources = {json.loads(line)["source"] for line in listed.stdout.splitlines()}
    assert sources == {f"hf://org/name/train:{number}" for number in range(10)}
