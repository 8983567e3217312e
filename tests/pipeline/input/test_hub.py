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


# Libraries read HF_ENDPOINT and HF_HUB_OFFLINE when they are imported, so the hub is asked in a process that has them.
# It answers line by line: the rows of settings, or the refusal; or it runs a verb, or loads a dataset into the cache.
PROBE = """
import json, sys
import datasets
from oddsmill.pipeline.__main__ import main
from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.input.parts import numbered_parts, read_batches
from oddsmill.pipeline.input.sources import find_inputs
from oddsmill.schemas.errors import Refused
answers, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    what, value = json.loads(line)
    try:
        if what == "run":
            answer = main(value)
        elif what == "load":
            answer = len(datasets.load_dataset(value))
        else:
            inputs = find_inputs(SourceConfig(**value))
            rows = [(inputs[row.origin.file].path, row.origin.row, row.values())
                    for part in numbered_parts(inputs) for batch in read_batches(part) for row in batch]
            answer = {"rows": rows, "shards": sorted({file for source in inputs for file in source.files})}
    except Refused as refused:
        answer = {"refused": str(refused)}
    print(json.dumps(answer), file=answers, flush=True)
"""


class Probe:
    """A process that sees the hub; `ask("read", settings)` returns its answer."""

    def __init__(self, hub: FakeHub, home: Path, **environment: str):
        given = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROBE], cwd=ROOT, env=os.environ | given | environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def ask(self, what: str, value: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([what, value]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def read(self, *settings: dict[str, Any]) -> list[dict[str, Any]]:
        return [self.ask("read", {"path": "hf://org/name"} | some) for some in settings]

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, triples: Callable) -> Iterator[FakeHub]:
    """org/name: train in two Parquet files (100 rows); org/name has no other commit."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "data").mkdir(parents=True)
    rows = triples(100)
    for number, some in enumerate((rows[:30], rows[30:])):
        target = folder / f"data/train-0000{number}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist(some), target, row_group_size=20)
    server = FakeHub(folder, "org/name")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of the libraries of the hub."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def probe(hub: FakeHub, home: Path) -> Iterator[Probe]:
    process = Probe(hub, home)
    yield process
    process.close()


def test_splits_and_slices_of_a_hub_dataset(probe: Probe, triples: Callable):
    rows = triples(100)
    whole, slices, unset = probe.read(
        {"split": "train", "revision": COMMIT}, {"split": "train[:5%] + train[28:32]+train[-1:]"}, {}
    )
    assert whole["rows"] == [["hf://org/name/train", number, row] for number, row in enumerate(rows)]
    assert unset == whole
    assert whole["shards"] == [
        f"hf://datasets/org/name@{COMMIT}/data/train-0000{number}-of-00002.parquet" for number in (0, 1)
    ]
    wanted = [*range(5), *range(28, 32), 99]
    assert slices["rows"] == [["hf://org/name/train", number, rows[number]] for number in wanted]


def test_rows_of_hub_files_that_must_be_read_to_be_counted(
    probe: Probe, hub: FakeHub, triples: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = triples(40)
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(hub, "folder", tmp_path)
    monkeypatch.setattr(hub, "repository", "org/lines")
    for number, some in enumerate((rows[:15], rows[15:])):
        lines = "\n\n".join(json.dumps(row) for row in some)  # blank lines have no number in a split
        (tmp_path / f"data/train-0000{number}.jsonl").write_text(lines)
    path = "hf://org/lines"
    found, beyond = probe.read({"path": path, "split": "train[14:17]"}, {"path": path, "split": "train[:41]"})
    assert found["rows"] == [["hf://org/lines/train", number, rows[number]] for number in (14, 15, 16)]
    assert "41 is out of range, hf://org/lines/train has 40 rows" in beyond["refused"]


def test_what_the_hub_does_not_have_is_refused_and_what_it_has_is_named(probe: Probe):
    for answer, expected in zip(
        probe.read(
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


def test_without_a_connection_the_cache_is_read(probe: Probe, hub: FakeHub, home: Path):
    (before,) = probe.read({"split": "train[28:32]"})
    offline = Probe(hub, home, HF_HUB_OFFLINE="1")
    (refused,) = offline.read({})
    assert "--source.path=hf://org/name: " in refused["refused"]
    probe.ask("load", "org/name")
    asked = len(hub.asked)
    cached, unknown = offline.read({"split": "train[28:32]"}, {"split": "dev"})
    offline.close()
    assert cached["rows"] == before["rows"]
    assert "has no such split; there are train" in unknown["refused"]
    assert len(hub.asked) == asked


def test_a_run_on_a_hub_dataset_makes_the_dataset_of_its_rows(
    run: Callable, write_rows: Callable, triples: Callable, probe: Probe, tokenizer_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    local = run("local", write_rows("rows.jsonl", triples(100)[:10]))
    settings = ["--source.path=hf://org/name", "--source.split=train[:10%]", f"--tokenizer={tokenizer_folder}"]
    lengths = ["--max_length=64", "--max_prompt_length=32"]
    assert probe.ask("run", ["run", *settings, *lengths, f"--output={tmp_path / 'hub'}"]) == 0
    made = type(local)(tmp_path / "hub", [])
    assert made.digests == local.digests
    assert {pair["source"] for pair in made.pairs(capsys)} == {f"hf://org/name/train:{number}" for number in range(10)}
