import json
from array import array
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.formats.pairs import Notes, PairIds, TokenizedPairs
from oddsmill.pipeline.output.blocks import encode_block
from oddsmill.pipeline.output.placing import PLACED_PAIRS
from oddsmill.pipeline.output.reading import read_records
from oddsmill.pipeline.output.rejects import write_rejects
from oddsmill.pipeline.output.shards import ShardReport, write_shard
from oddsmill.schemas.drops import Origin
from oddsmill.schemas.manifest import TokenizerSummary, file_sha256
from oddsmill.schemas.provenance import provenance_path
from oddsmill.schemas.record import Row

TOKENIZER = TokenizerSummary(sha256={}, chat_template_sha256=None, bos_id=1, eos_id=2, pad_id=0, vocab_size=100)
PATHS = ["a.jsonl", "b.jsonl"]


class PlacedPair(NamedTuple):
    """A line of a block: see `PLACED_PAIRS`."""

    rank: int
    id: int
    prompt_id: int
    origin: Origin
    lengths: tuple[int, int, int]
    truncated: int
    notes: int
    ids: bytes
    unscored: bytes
    raw: bytes


def pair(rank: int, *, id: int | None = None, row: int = 0, notes: int = 0, length: int = 3) -> PlacedPair:
    """A pair of three sides of `length` tokens, each token its rank."""
    return PlacedPair(
        rank=rank,
        id=rank if id is None else id,
        prompt_id=rank,
        origin=Origin(rank % 2, row),
        lengths=(length, length, length),
        truncated=0,
        notes=notes,
        ids=np.full(3 * length, rank, np.uint16).tobytes(),
        unscored=b"",
        raw=f"raw {row}".encode(),
    )


def encode(pairs: list[PlacedPair]) -> bytes:
    lines = [(*each[:3], *each.origin, *each.lengths, *each[5:]) for each in pairs]
    return encode_block(pa.table(list(zip(*lines, strict=True)), PLACED_PAIRS))


def write(folder: Path, *blocks: list[PlacedPair], **changes: Any) -> tuple[ShardReport, list[tuple[int, bytes]]]:
    config = PreprocessConfig(
        source=SourceConfig(path="a"),
        tokenizer="t",
        output="o",
        row_length=20,
        max_length=20,
        max_prompt_length=10,
        **changes,
    )
    return write_shard(
        [encode(block) for block in blocks],
        split="train", index=0, count=1, config=config, output=str(folder), tokenizer=TOKENIZER, paths=PATHS,
    )  # fmt: skip


def stored_rows(folder: Path, report: ShardReport) -> list[Row]:
    manifest: Any = type("Manifest", (), {"row_length": 20, "tokenizer": TOKENIZER})()
    path = str(folder / report.shard.name)
    return list(read_records(path, report.shard, manifest, max_pairs=report.tally.max_pairs_per_row))


def rows_of(folder: Path, report: ShardReport) -> list[list[int]]:
    """The ranks of the pairs of each stored row."""
    return [[each.prompt[0] for each in row.pairs()] for row in stored_rows(folder, report)]


def test_the_bytes_depend_neither_on_blocks_nor_on_their_order(tmp_path: Path):
    pairs = [pair(rank, row=rank) for rank in range(10)]
    first, _ = write(tmp_path / "a", pairs)
    second, _ = write(tmp_path / "b", pairs[7:], pairs[:2][::-1], pairs[2:7])
    assert first.shard == second.shard
    assert first.shard.sha256 == file_sha256(tmp_path / "a" / first.shard.name)


def test_pairs_lie_in_the_order_of_their_ranks_and_share_rows(tmp_path: Path):
    report, _ = write(tmp_path, [pair(rank) for rank in (5, 2, 9, 7)])
    rows = rows_of(tmp_path, report)
    assert rows == [[2, 5], [7, 9]]
    assert (report.shard.records, report.tally.pairs, report.tally.rows) == (2, 4, 2)
    report, _ = write(tmp_path / "apart", [pair(rank) for rank in (5, 2)], packing=False)
    assert rows_of(tmp_path / "apart", report) == [[2], [5]]


def test_of_equal_pairs_the_first_of_the_source_is_kept(tmp_path: Path):
    pairs = [pair(4, row=9), pair(4, row=3), pair(6)]
    report, rejects = write(tmp_path / "all", pairs)
    assert (report.exact_duplicates, report.tally.pairs, rejects) == (1, 3, [])
    report, rejects = write(tmp_path / "once", pairs, dedup="exact")
    assert (report.exact_duplicates, report.tally.pairs) == (0, 2)
    assert [file for file, _ in rejects] == [0]
    assert pq.read_table(provenance_path(str(tmp_path / "once"), report.shard.name))["file_row"].to_pylist() == [3, 0]


def test_provenance_has_a_line_a_pair_in_stored_order(tmp_path: Path):
    report, _ = write(tmp_path, [pair(7, row=70), pair(2, row=20), pair(5, row=50)])
    table = pq.read_table(provenance_path(str(tmp_path), report.shard.name)).to_pydict()
    assert table["file_row"] == [20, 50, 70]
    assert table["file"] == ["a.jsonl", "b.jsonl", "b.jsonl"]
    assert table["row"] == [0, 0, 1]


def test_notes_are_counted_by_name(tmp_path: Path):
    both = int(Notes.TURN_CUT | Notes.TURNS_DROPPED)
    report, _ = write(tmp_path, [pair(1, notes=both), pair(2, notes=int(Notes.TURN_CUT)), pair(3)])
    assert {name: count for name, count in report.notes.items() if count} == {"turn_cut": 2, "turns_dropped": 1}


def test_unscored_tokens_go_with_their_pair(tmp_path: Path):
    """Wherever it comes to lie in a row, and where a duplicate of it is dropped, whose raw text stands behind them."""
    side = array("i", [4] * 3)
    ids = PairIds(side, side, side, unscored_chosen=[(1, 2)], unscored_rejected=[(0, 1), (2, 3)])
    of_turns = pair(4)._replace(unscored=TokenizedPairs.of({0: ids}).unscored_as_bytes()[0])
    report, rejects = write(
        tmp_path, [pair(5), of_turns, pair(2), of_turns._replace(origin=Origin(0, 9))], dedup="exact"
    )
    stored = [each for row in stored_rows(tmp_path, report) for each in row.pairs()]
    assert [(each.prompt[0], each.unscored_chosen, each.unscored_rejected) for each in stored] == [
        (2, (), ()),
        (4, ((1, 2),), ((0, 1), (2, 3))),
        (5, (), ()),
    ]
    assert report.tally.summary([], row_length=20).unscored == {"chosen": 1, "rejected": 2}
    rejected, _ = write_rejects([block for _, block in rejects], output=str(tmp_path), number=0, path="a.jsonl")
    assert rejected == {"duplicate": 1}
    (line,) = [json.loads(line) for file in (tmp_path / "rejects").iterdir() for line in file.read_text().splitlines()]
    assert line["raw"] == "raw 0"


def test_a_shard_may_be_empty(tmp_path: Path):
    report, _ = write(tmp_path)
    assert (report.shard.records, rows_of(tmp_path, report)) == (0, [])
