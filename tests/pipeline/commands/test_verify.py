import shutil
import tracemalloc
from collections.abc import Callable
from functools import reduce
from operator import getitem
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from oddsmill.pipeline.commands import verify
from tests.datasets import edit_manifest


@pytest.fixture
def dataset(run: Callable, write_rows: Callable, triples: Callable) -> Path:
    return run("out", write_rows("rows.jsonl", triples(60)), num_shards=2, eval_share=0.3).folder


def test_a_sound_dataset_passes_line_by_line(dataset: Path, command: Callable):
    code, out, err = command("verify", dataset)
    assert (code, err) == (0, "")
    assert out.count("ok  ") == 10
    assert "holds 60 pairs" in out


def test_a_flipped_byte_is_found(dataset: Path, command: Callable):
    shard = dataset / "train-00001-of-00002.arrayrecord"
    content = bytearray(shard.read_bytes())
    place = next(index for index in range(len(content) // 2, len(content)) if content[index])
    content[place] ^= 1
    shard.write_bytes(content)
    code, _, err = command("verify", dataset)
    assert code == 2
    assert f"{shard} was altered" in err
    assert "Traceback" not in err


def test_a_record_that_decompresses_to_much_is_found(dataset: Path, command: Callable):
    shard = dataset / "train-00000-of-00002.arrayrecord"
    writer = ArrayRecordWriter(str(shard), "group_size:1,zstd:3")
    writer.write(bytes(1 << 26))
    writer.close()
    code, _, err = command("verify", dataset)
    assert code == 2 and "Traceback" not in err
    assert f"{shard.name}: record 0 takes more than" in err


def test_a_removed_shard_is_found_and_the_others_are_still_read(dataset: Path, command: Callable):
    shard = dataset / "train-00000-of-00002.arrayrecord"
    shard.unlink()
    code, _, err = command("verify", dataset)
    assert code == 2
    assert f"{shard} is missing" in err
    assert "split train: recounting gives other rows, pairs" in err
    assert "Traceback" not in err


def test_an_altered_tokenizer_is_found(dataset: Path, command: Callable):
    (dataset / "tokenizer" / "tokenizer_config.json").write_text("{}")
    code, _, err = command("verify", dataset)
    assert code == 2
    assert "tokenizer_config.json was altered" in err


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("splits", "train", "pairs"), 99, "ledger.pairs_out=60: the splits have "),
        (("splits", "eval", "tokens", "chosen"), 1, "splits.eval.tokens="),
        (("splits", "eval", "truncated", "chosen"), 3, "split eval: recounting gives other truncated"),
        (("splits", "train", "max_pairs_per_row"), 1, "rows of 1 to 1 pairs"),
        (("ledger", "rows_in"), 61, "the ledger does not balance"),
        (("tokenizer", "vocab_size"), 5, "must be below vocab_size=5"),
        (("row_length",), 127, "splits.train.padding_share="),
    ],
)
def test_a_manifest_that_says_otherwise_is_found(
    dataset: Path, command: Callable, path: tuple[str, ...], value: int, problem: str
):
    edit_manifest(dataset, lambda fields: reduce(getitem, path[:-1], fields).update({path[-1]: value}))
    code, _, err = command("verify", dataset)
    assert code == 2
    assert problem in err


def test_a_prompt_in_both_splits_is_found(dataset: Path, command: Callable):
    train, evaluation = (next((dataset / "provenance").glob(f"{split}-00000*")) for split in ("train", "eval"))
    prompts = pq.read_table(train).column("prompt_id")
    table = pq.read_table(evaluation)
    place = table.column_names.index("prompt_id")
    ids = np.resize(prompts.to_numpy(), table.num_rows)
    pq.write_table(table.set_column(place, "prompt_id", [ids]), evaluation)
    code, _, err = command("verify", dataset)
    assert code == 2
    assert "prompts are in both splits" in err


def test_sources_of_other_pairs_are_found(dataset: Path, command: Callable):
    first, second = sorted((dataset / "provenance").glob("train-*"))
    whole = first.read_bytes()
    second.rename(first)
    code, _, err = command("verify", dataset)
    assert code == 2
    assert f"{first} names other pairs than train-00000-of-00002.arrayrecord holds" in err
    assert f"{second} is missing, and others are there" in err
    pq.write_table(pq.read_table(pa.BufferReader(whole)).slice(1), first)
    assert f"{first} names other pairs" in command("verify", dataset)[2]
    pq.write_table(pq.read_table(pa.BufferReader(whole)).slice(0, 1), first)
    assert f"{first} names 1 pairs, train-00000-of-00002.arrayrecord holds " in command("verify", dataset)[2]
    shutil.rmtree(dataset / "provenance")
    code, out, _ = command("verify", dataset)
    assert code == 0
    assert "--  sources of pairs, prompts in two splits: not checked, provenance/ is not there" in out


def test_a_key_takes_eight_bytes():
    tracemalloc.start()
    try:
        keys = verify.Keys()
        for first in range(0, 1 << 20, 1 << 12):
            keys.add(np.arange(first + (1 << 12), first, -1).astype(np.uint64))
        assert (keys.sorted() == np.arange(1, (1 << 20) + 1)).all()
        assert tracemalloc.get_traced_memory()[1] < 24 << 20  # with the two sides of the comparison above
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("train", "evaluation", "shared"),
    [([], [], None), ([1], [], None), ([], [1], None), ([2, 2, 4], [1, 3, 5], None), ([1, 2, 2], [2, 2, 5], "1 pairs")],
)
def test_keys_of_both_splits_are_found(train: list[int], evaluation: list[int], shared: str | None):
    keys = {"train": np.array(train, np.uint64), "eval": np.array(evaluation, np.uint64)}
    problems = list(verify._shared("pair", keys))
    assert problems == ([f"{shared} are in both splits, for instance {2:016x}"] if shared else [])


def test_a_dropped_row_that_rejects_lacks_is_found(
    run: Callable, write_rows: Callable, triples: Callable, command: Callable
):
    rows = [*triples(20), {"prompt": "no answers"}, {"prompt": "nor here"}, b"broken"]
    folder = run("dropped", write_rows("rows.jsonl", rows)).folder
    assert command("verify", folder)[0] == 0
    (rejects,) = (folder / "rejects").iterdir()
    lines = rejects.read_bytes().splitlines(keepends=True)
    rejects.write_bytes(b"".join(lines[1:]))
    code, _, err = command("verify", folder)
    assert code == 2
    assert "rejects/ has 1 rows for missing_field, the ledger 2" in err
    rejects.write_bytes(lines[0] + lines[1] + b"{}\n")
    assert f"rejects/{rejects.name}, line 3: 'file'" in command("verify", folder)[2]


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path, command: Callable):
    assert command("verify", tmp_path)[0] == 2


def test_a_dataset_of_a_version_that_did_not_count_something_is_sound(
    run: Callable, write_rows: Callable, triples: Callable, command: Callable
):
    folder = run("out", write_rows("rows.jsonl", triples(9))).folder
    edit_manifest(folder, lambda fields: fields["counts"].pop("identical_ids"))
    (folder / "run.json").write_text('{"inputs": []}')  # without a digest, as that version wrote it
    assert command("verify", folder)[0] == 0
