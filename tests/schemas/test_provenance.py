import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.provenance import PROVENANCE_SCHEMA, provenance_batches, provenance_path, write_provenance

LINES = {
    "row": [0, 0, 1],
    "id": [1 << 63, 2, 3],
    "prompt_id": [7, 7, 9],
    "file": ["a.jsonl", "b.jsonl", "a.jsonl"],
    "file_row": [5, 0, 6],
}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    table = pa.table({name: pa.array(LINES[name], PROVENANCE_SCHEMA.field(name).type) for name in LINES})
    write_provenance(str(tmp_path / "x.parquet"), table)
    return tmp_path / "x.parquet"


def lines(path: Path) -> dict[str, list]:
    return pa.Table.from_batches(provenance_batches(str(path), most_lines=3)).to_pydict()


def test_what_is_written_is_read(written: Path):
    assert lines(written) == LINES


def test_no_altered_byte_of_a_page_is_read_as_something_else(written: Path):
    content = bytearray(written.read_bytes())
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    silent = []
    for place in range(0, footer, 3):
        content[place] ^= 0x10
        written.write_bytes(content)
        content[place] ^= 0x10
        try:
            if lines(written) != LINES:
                silent.append(place)
        except ValueError:
            pass
    assert not silent


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"id": pa.array([1, 2])}, "no column id of type uint64"),
        ({"id": pa.array([1, None], pa.uint64())}, "a value is missing"),
        ({"ids": pa.array([1], pa.uint64())}, "no column id of type uint64"),
    ],
)
def test_other_columns_are_refused(tmp_path: Path, columns: dict, problem: str):
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=problem):
        list(provenance_batches(str(tmp_path / "x.parquet"), ("id",), most_lines=9))


def test_more_lines_than_the_dataset_has_pairs_are_refused_before_they_are_read(tmp_path: Path):
    """Equal lines take next to no space: these 4 million take 14 KB."""
    lines = pa.table({"id": pa.array(np.zeros(1 << 22, np.uint64))})
    pq.write_table(lines, tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet").stat().st_size < 1 << 14
    with pytest.raises(ValueError, match="it has 4,194,304 lines for at most 9 pairs"):
        list(provenance_batches(str(tmp_path / "x.parquet"), ("id",), most_lines=9))
    assert sum(map(len, provenance_batches(str(tmp_path / "x.parquet"), ("id",), most_lines=1 << 22))) == 1 << 22


@pytest.mark.parametrize("content", [b"", b"x", b"PAR1", b"PAR1" + bytes(30) + b"PAR1"])
def test_another_file_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"\w"):
        list(provenance_batches(str(tmp_path / "x.parquet"), most_lines=9))
    with pytest.raises(Refused, match="cannot be read"):
        list(provenance_batches(str(tmp_path / "nowhere.parquet"), most_lines=9))


def test_a_folder_may_be_named_like_a_column(written: Path):
    """Arrow takes a folder `id=7` for a column of a data set that is divided by it."""
    (written.parent / "id=7").mkdir()
    assert lines(written.rename(written.parent / "id=7" / "x.parquet")) == LINES


def test_reading_starts_no_thread(written: Path):
    """A thread of Arrow's that is still at work aborts a process that ends."""
    script = "import os, sys; from oddsmill.schemas.provenance import *; "
    count = "print(len(os.listdir('/proc/self/task'))); "
    script += count + "list(provenance_batches(sys.argv[1], most_lines=9)); " + count
    done = subprocess.run([sys.executable, "-c", script, written], capture_output=True, text=True, check=True)
    before, after = done.stdout.split()
    assert before == after


def test_each_shard_has_a_table_of_its_own_in_one_folder():
    shards = [f"{split}-0000{index}-of-00002.arrayrecord" for split in ("train", "eval") for index in (0, 1)]
    tables = [provenance_path("out/mine", shard) for shard in shards]
    assert tables[0] == "out/mine/provenance/train-00000-of-00002.parquet"
    assert len(set(tables)) == len(shards)


def test_the_dataset_may_be_in_a_store():
    path = provenance_path("gs://bucket/out", "eval-00000-of-00001.arrayrecord")
    assert path == "gs://bucket/out/provenance/eval-00000-of-00001.parquet"
