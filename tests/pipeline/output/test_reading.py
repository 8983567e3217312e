"""`inspect`, `verify` and `report` say of a dataset on a store what they say of it on the disk."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oddsmill.pipeline import PreprocessConfig, SourceConfig, preprocess
from oddsmill.schemas import stores
from tests import disk_store  # noqa: F401 - serves store://


@pytest.fixture(scope="module")
def made(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    rows = [{"prompt": f"Question {n // 3}", "chosen": f" yes {n}", "rejected": " no" * n} for n in range(60)]
    rows.append({"prompt": "no answers"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = SourceConfig(path=str(folder / "rows.jsonl"))
    output = str(folder / "out")
    preprocess(
        PreprocessConfig(source=source, tokenizer=str(tokenizer_folder), output=output, num_shards=2, eval_share=0.3),
    )
    return folder / "out"


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where copies go."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


@pytest.mark.parametrize(
    "arguments", [["inspect", "--json"], ["inspect", "--num_rows=2"], ["inspect", "--split=eval"], ["verify"]]
)
def test_of_a_store_the_same_is_said_as_of_the_disk(
    dataset: Path, command: Callable, scratch: Path, arguments: list[str]
):
    verb, *flags = arguments
    local = command(verb, dataset, *flags)
    assert local[0] == 0
    code, out, err = command(verb, f"store:/{dataset}", *flags)
    assert (code, out.replace("store:/", ""), err) == local


def test_the_page_of_a_store_is_that_of_the_disk_and_lies_beside_it(dataset: Path, command: Callable, scratch: Path):
    assert command("report", dataset)[0] == 0
    page = dataset / "report.html"
    local = page.read_text()
    page.unlink()
    assert command("report", f"store:/{dataset}") == (0, f"report     store:/{dataset}/report.html\n", "")
    assert page.read_text().replace("store:/", "") == local


def test_one_shard_is_copied_at_a_time(
    dataset: Path, command: Callable, scratch: Path, monkeypatch: pytest.MonkeyPatch
):
    copied: list[list[str]] = []
    download = stores._download

    def watch(path: str, target: str) -> None:
        download(path, target)
        copied.append([file.name for file in scratch.rglob("*.arrayrecord")])

    monkeypatch.setattr(stores, "_download", watch)
    assert command("verify", f"store:/{dataset}")[0] == 0
    shards = [names for names in copied if names]
    assert all(len(names) == 1 for names in shards)
    assert sorted(name for (name,) in shards if name.startswith("train")) == [
        "train-00000-of-00002.arrayrecord",
        "train-00001-of-00002.arrayrecord",
    ]
    assert not list(scratch.rglob("*.arrayrecord"))


def spoil(dataset: Path, name: str) -> None:
    path = dataset / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: spoil(folder, "tokenizer/tokenizer.json"), "tokenizer/tokenizer.json was altered"),
        (lambda folder: (folder / "train-00001-of-00002.arrayrecord").unlink(), "of-00002.arrayrecord is missing"),
        (lambda folder: (folder / "train-00001-of-00002.arrayrecord").write_bytes(b"x"), "has 1 bytes, the manifest"),
        (lambda folder: (folder / "rejects/00000-rows.jsonl.jsonl").write_bytes(b"x"), "rejects/"),
        (lambda folder: (folder / "provenance/train-00000-of-00002.parquet").write_bytes(b"x"), ".parquet: "),
        (lambda folder: (folder / "manifest.json").unlink(), "has no manifest.json: "),
    ],
)
@pytest.mark.parametrize("scheme", ["", "store:/"])
def test_damage_is_found_wherever_it_lies(
    dataset: Path, command: Callable, scratch: Path, damage: Callable[[Path], Any], message: str, scheme: str
):
    damage(dataset)
    code, _, err = command("verify", f"{scheme}{dataset}")
    assert code == 2
    assert message in err


@pytest.mark.parametrize("verb", ["inspect", "report"])
@pytest.mark.parametrize("name", ["train-00000-of-00002.arrayrecord", "provenance/train-00000-of-00002.parquet"])
@pytest.mark.parametrize("content", [None, b"", b"not what it was"])
def test_a_damaged_file_is_one_refusal_that_names_it(
    dataset: Path, command: Callable, verb: str, name: str, content: bytes | None
):
    if content is None:
        (dataset / name).unlink()
    else:
        (dataset / name).write_bytes(content)
    code, _, err = command(verb, dataset, *(["--json"] if verb == "inspect" else []))
    if content is None and name.endswith(".parquet"):
        assert code == 0  # what lies beside the dataset may be absent
    else:
        assert code == 2
        assert Path(name).name in err
        assert err.count("\n") == 1
