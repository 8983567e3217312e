"""`explain --dump`: from the trainer's dump of a step to the rows it came from."""

import json
from collections.abc import Callable

import pytest


@pytest.fixture
def dataset(run: Callable, write_rows: Callable, triples: Callable, capsys: pytest.CaptureFixture[str]):
    path = write_rows("rows.jsonl", triples(9))
    other = write_rows("other.jsonl", [{"question": "q", "chosen": "a", "rejected": "b"}])
    sources = [{"path": str(path)}, {"path": str(other), "fields": {"prompt": "question"}}]
    result = run("out", source=sources, eval_share=0, num_shards=2)
    return path, result, result.pairs(capsys)


def dump_of(folder, rows, data) -> str:
    path = folder / "nonfinite-step-7.json"
    path.write_text(json.dumps({"step": 7, "loss": "nan", "grad_norm": "nan", "data": str(data), "rows": rows}))
    return f"--dump={path}"


def test_the_pairs_of_the_rows_to_blame_are_explained_and_no_others(dataset, tmp_path, command):
    path, result, pairs = dataset
    rows = [
        {"pairs": [pairs[0]["id"]], "loss": 1.0, "grad_norm": 1.0, "finite": True},
        {"pairs": [pairs[1]["id"], pairs[2]["id"]], "loss": "nan", "grad_norm": "nan", "finite": False},
    ]
    code, out, err = command("explain", dump_of(tmp_path, rows, result.folder))
    assert (code, err) == (0, "")
    assert out.startswith("step 7: loss nan, gradient norm nan\n1 of its 2 rows are not finite alone")
    for pair in pairs[1:3]:
        row = pair["source"].rpartition(":")[2]
        assert f"pair {pair['id']}" in out
        assert f"\nrow {row} of {path}\n" in out  # the source row, with every decision
        assert f"\nid         {pair['id']}\n" in out
    assert pairs[0]["id"] not in out


def test_without_the_source_the_tokens_are_shown(dataset, tmp_path, command):
    path, result, pairs = dataset
    path.unlink()
    moved = tmp_path / "moved"
    result.folder.rename(moved)
    arguments = ("explain", dump_of(tmp_path, [{"pairs": [pairs[0]["id"]]}], result.folder))
    code, _, err = command(*arguments)
    assert code == 2 and str(result.folder) in err
    code, out, err = command(*arguments, f"--data={moved}")
    assert (code, err) == (0, "")
    assert f"pair {pairs[0]['id']}  {pairs[0]['source']}" in out and "the source is not read: " in out
    assert f"chosen {len(pairs[0]['chosen_ids'])}" in out


def test_what_is_no_dump_or_not_of_this_dataset_is_refused(dataset, tmp_path, command):
    _, result, _ = dataset
    assert "No such file" in command("explain", "--dump=nowhere.json")[2]
    (tmp_path / "other.json").write_text("{}")
    assert "not a dump of a training step" in command("explain", f"--dump={tmp_path / 'other.json'}")[2]
    code, _, err = command("explain", dump_of(tmp_path, [{"pairs": ["00000000000000aa"]}], result.folder))
    assert code == 2 and "has no pair 00000000000000aa" in err
