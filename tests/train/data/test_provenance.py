"""The dataset says where its pairs come from, or that it does not know."""

import os
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.provenance import provenance_path
from oddsmill.train.data.provenance import place_of_each, read_places, short_names, source_of_each

MANIFEST = SimpleNamespace(
    splits={
        "train": SimpleNamespace(
            pairs=3, shards=[SimpleNamespace(name=f"train-{index}.arrayrecord") for index in (0, 1)]
        )
    }
)


@pytest.fixture
def folder(tmp_path):
    """Two shards; the pair 5 stands in both."""
    (tmp_path / "provenance").mkdir()
    for index, (ids, rows) in enumerate((([5, 6], [0, 1]), ([5], [9]))):
        table = pa.table(
            {"id": pa.array(ids, pa.uint64()), "file": [f"/in/{index}/a.jsonl"] * len(ids), "file_row": rows}
        )
        pq.write_table(table, provenance_path(str(tmp_path), f"train-{index}.arrayrecord"))
    return str(tmp_path)


def test_equal_pairs_have_their_places_in_stored_order(folder):
    places = read_places(folder, MANIFEST, "train")
    assert place_of_each([5, 6, 5, 5, 7], places) == [
        ("/in/0/a.jsonl", 0), ("/in/0/a.jsonl", 1), ("/in/1/a.jsonl", 9), None, None,
    ]  # fmt: skip
    assert source_of_each([5, 6, 5, 7], places) == ["0/a.jsonl", "0/a.jsonl", "1/a.jsonl", ""]


def test_a_file_that_is_not_there_says_nothing_and_a_damaged_one_is_refused(folder):
    path = provenance_path(folder, "train-1.arrayrecord")
    with open(path, "wb") as file:
        file.write(b"PAR1")
    with pytest.raises(Refused, match=r"train-1\.parquet cannot be read"):
        read_places(folder, MANIFEST, "train")
    os.unlink(path)
    assert read_places(folder, MANIFEST, "train") == {5: [("/in/0/a.jsonl", 0)], 6: [("/in/0/a.jsonl", 1)]}


def test_a_name_is_as_short_as_tells_it_from_the_others():
    assert short_names({"/a/b/c.json", "/a/b/d.json"}) == {"/a/b/c.json": "c.json", "/a/b/d.json": "d.json"}
    assert short_names({"/a/x/c.json", "/b/x/c.json"}) == {"/a/x/c.json": "a/x/c.json", "/b/x/c.json": "b/x/c.json"}
    assert short_names(set()) == {}
