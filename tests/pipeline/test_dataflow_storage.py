"""Input, tokenizer and output on gs://, against a fake of the store."""

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oddsmill.pipeline import PreprocessConfig, SourceConfig, preprocess
from tests.cloud_storage import FakeStorage
from tests.pipeline.conftest import messages

# Needs [dataflow], which make test-slow has.
pytestmark = pytest.mark.slow


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStorage]:
    fake = FakeStorage()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake.address)
    yield fake
    fake.close()


def test_on_the_store_bytes_are_those_on_the_disk(
    run: Callable,
    storage: FakeStorage,
    write_rows: Callable,
    triples: Callable,
    tokenizer_folder: Path,
    command: Callable,
):
    rows = write_rows("rows.jsonl", [*triples(60), {"prompt": "x"}])
    settings = {"num_shards": 2, "eval_share": 0.2, "max_length": 64, "max_prompt_length": 32}
    local = run("out", rows, **settings)
    storage.objects["bucket/in/rows.jsonl"] = rows.read_bytes()
    for file in tokenizer_folder.iterdir():
        storage.objects[f"bucket/tokenizer/{file.name}"] = file.read_bytes()
    config = PreprocessConfig(
        source=SourceConfig(path="gs://bucket/in/*.jsonl"),
        tokenizer="gs://bucket/tokenizer",
        output="gs://bucket/out",
        **settings,
    )
    preprocess(config)
    stored = {
        key.removeprefix("bucket/out/"): hashlib.sha256(content).hexdigest()
        for key, content in storage.objects.items()
        if re.fullmatch(r"bucket/out/(manifest\.json|.*\.arrayrecord)", key)
    }
    assert stored == local.digests
    names = {key.removeprefix("bucket/out/") for key in storage.objects if key.startswith("bucket/out/")}
    folders = {name for name in local.names if (local.folder / name).is_dir()}
    assert names == local.names - folders

    for arguments in (["inspect", "--json"], ["verify"], ["report"]):
        code, out, err = command(*arguments[:1], "gs://bucket/out", *arguments[1:])
        here = command(*arguments[:1], local.folder, *arguments[1:])
        assert (code, err) == (0, "")
        sources = out.replace("gs://bucket/out", str(local.folder)).replace("gs://bucket/in", str(rows.parent))
        assert sources == here[1]
    assert storage.objects["bucket/out/report.html"].startswith(b"<!DOCTYPE html>")

    with messages() as lines:
        preprocess(config)
    assert any("nothing changed" in line for line in lines)

    del storage.objects["bucket/out/manifest.json"]
    storage.objects["bucket/out/unfinished.json"] = b"{}"
    storage.objects["bucket/out/train-00000-of-00009.arrayrecord"] = b"of an earlier run"
    preprocess(config)
    assert hashlib.sha256(storage.objects["bucket/out/manifest.json"]).hexdigest() == local.digests["manifest.json"]
    assert "bucket/out/train-00000-of-00009.arrayrecord" not in storage.objects
    assert "bucket/out/unfinished.json" not in storage.objects
