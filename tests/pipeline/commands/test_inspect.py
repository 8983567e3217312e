import json
from collections.abc import Callable
from pathlib import Path

import pytest

from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.schemas.manifest import read_manifest
from tests.datasets import edit_manifest


@pytest.fixture
def dataset(run: Callable, write_rows: Callable, triples: Callable) -> Path:
    return run("out", write_rows("rows.jsonl", triples(30)), eval_share=0.3, packing=False).folder


def test_json_has_one_object_a_pair_in_stored_order(dataset: Path, command: Callable, tmp_path: Path):
    manifest = json.loads((dataset / "manifest.json").read_text())
    code, out, err = command("inspect", dataset, "--json")
    pairs = [json.loads(line) for line in out.splitlines()]
    assert (code, err, len(pairs)) == (0, "", 30)
    assert set(pairs[0]) == {
        "split", "row", "id", "source", "prompt_ids", "chosen_ids", "rejected_ids", "truncated",
    }  # fmt: skip
    for split in ("train", "eval"):
        rows = [pair["row"] for pair in pairs if pair["split"] == split]
        assert rows == sorted(rows)
        assert set(rows) == set(range(manifest["splits"][split]["rows"]))
    assert {pair["source"] for pair in pairs} == {f"{tmp_path}/rows.jsonl:{row}" for row in range(30)}


def test_split_and_number_of_rows_choose_what_is_shown(dataset: Path, command: Callable):
    out = command("inspect", dataset, "--json", "--split=eval", "--num_rows=1")[1]
    assert {(json.loads(line)["split"], json.loads(line)["row"]) for line in out.splitlines()} == {("eval", 0)}


def test_eyes_see_the_text_of_each_side_and_a_legend(dataset: Path, command: Callable):
    code, out, _ = command("inspect", dataset, "--split=train")
    pair = json.loads(command("inspect", dataset, "--json", "--split=train", "--num_rows=1")[1].splitlines()[0])
    tokenizer = load_tokenizer(dataset / "tokenizer")
    assert code == 0
    assert out.startswith("branches: prompt  chosen  rejected")
    assert f"chosen {len(pair['chosen_ids'])}: {tokenizer.decode(pair['chosen_ids'])}" in out
    assert pair["id"] in out
    assert pair["source"] in out


def test_without_provenance_the_source_is_null(dataset: Path, command: Callable):
    for file in (dataset / "provenance").iterdir():
        file.unlink()
    out = command("inspect", dataset, "--json")[1]
    assert {json.loads(line)["source"] for line in out.splitlines()} == {None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--num_rows=0"], "must be at least 1"), (["--split=test"], "expected one of train, eval")],
)
def test_what_is_not_there_is_refused(dataset: Path, command: Callable, arguments: list[str], message: str):
    code, _, err = command("inspect", dataset, *arguments)
    assert code == 2
    assert message in err


def test_a_split_that_the_dataset_lacks_is_refused(
    run: Callable, write_rows: Callable, triples: Callable, command: Callable
):
    folder = run("whole", write_rows("rows.jsonl", triples(9)), eval_share=0.0).folder
    code, _, err = command("inspect", folder, "--split=eval")
    assert (code, err) == (2, f"refused: --split=eval: {folder} has only train\n")


def test_a_damaged_record_is_refused_by_name(dataset: Path, command: Callable):
    highest = read_manifest(dataset).max_token_id

    def forget_the_highest(fields: dict) -> None:
        fields["tokenizer"]["vocab_size"] = highest
        for split in fields["splits"].values():
            split["max_token_id"] = highest - 1

    edit_manifest(dataset, forget_the_highest)
    code, _, err = command("inspect", dataset, "--json")
    assert code == 2
    assert "train-00000-of-00001.arrayrecord, record 0: token id" in err or "eval-00000" in err
