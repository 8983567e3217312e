"""run.json and the files that it has the digests of: what of them is altered is noticed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from oddsmill.pipeline.output.run_record import read_run, run_problems, seal
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import read_manifest


@pytest.fixture
def dataset(run: Callable, write_rows: Callable, triples: Callable) -> Path:
    return run("out", write_rows("rows.jsonl", [*triples(9), {"prompt": "x"}])).folder


def test_every_altered_byte_of_the_record_and_of_what_names_the_inputs_is_noticed(dataset: Path):
    manifest = read_manifest(dataset)
    assert not [*run_problems(str(dataset), manifest)]
    record = read_run(str(dataset))
    assert record and record["manifest_sha256"] == manifest.sha256
    assert [name.partition("/")[0] for name in sorted(record["files"])] == ["provenance", "provenance", "rejects"]
    for name in ("run.json", *record["files"]):
        content = (dataset / name).read_bytes()
        for at in range(0, len(content), 7):
            altered = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
            (dataset / name).write_bytes(altered)
            found = [*run_problems(str(dataset), manifest)]
            same = name == "run.json" and _value(altered) == json.loads(content)
            assert bool(found) != same and all(name in problem for problem in found), (name, at, found)
        (dataset / name).write_bytes(content)
    (dataset / "rejects" / "00000-rows.jsonl.jsonl").unlink()  # whoever removes it takes nothing from the dataset
    assert not [*run_problems(str(dataset), manifest)]


def _value(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return None


def test_a_record_of_another_manifest_is_noticed_and_one_of_an_earlier_version_is_read(dataset: Path):
    path, manifest = dataset / "run.json", read_manifest(dataset)
    path.write_text(json.dumps(seal({"inputs": [], "manifest_sha256": "0" * 64})))
    (problem,) = run_problems(str(dataset), manifest)
    assert problem == f"run.json is of another manifest ({'0' * 64})"
    path.write_text('{"inputs": [{"digest": "sha256:1"}]}')
    assert read_run(str(dataset)) == {"inputs": [{"digest": "sha256:1"}]}
    path.unlink()
    assert read_run(str(dataset)) is None


@pytest.mark.parametrize(
    "content", ["", "[]", '{"inputs": 5}', '{"inputs": [{}]}', '{"files": []}', '{"a": 1, "a": 2}']
)
def test_a_damaged_record_is_refused_by_whoever_reads_it(tmp_path: Path, content: str):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(Refused, match=r"run\.json is damaged \("):
        read_run(str(tmp_path))


def test_a_damaged_record_does_not_say_that_nothing_changed(dataset: Path, run: Callable, write_rows: Callable):
    record = json.loads((dataset / "run.json").read_text())
    (dataset / "run.json").write_text(json.dumps(record | {"cpus": record["cpus"] + 1}))
    with pytest.raises(Refused, match=r"run\.json is damaged .*--overwrite=true"):
        run("out", dataset.parent / "rows.jsonl")
    assert "dataset" in run("out", dataset.parent / "rows.jsonl", overwrite=True).lines[-1]
