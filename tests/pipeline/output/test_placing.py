from array import array
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.formats.keys import ShardKey, place_pairs
from oddsmill.pipeline.formats.pairs import NOTHING, Notes, PairIds, PreferencePair, TokenizedPairs
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.pipeline.output import placing
from oddsmill.pipeline.output.blocks import open_blocks
from oddsmill.pipeline.output.placing import PLACED_PAIRS, ShardBlocks
from oddsmill.schemas.drops import DropReason, Origin
from oddsmill.schemas.manifest import Split
from oddsmill.schemas.record import WHOLE, Truncated

SHARDS: dict[Split, int] = {"train": 3, "eval": 2}
Line = tuple[Any, ...]


def config(**changes: Any) -> PreprocessConfig:
    return PreprocessConfig(source=SourceConfig(path="a"), tokenizer="t", output="o", eval_share=0.4, **changes)


def pairs_of(count: int) -> tuple[list[RawRow], list[PreferencePair], list[PairIds]]:
    """Rows, pairs and ids of all sizes, of which some have unscored tokens, notes and cut sides."""
    rows, pairs, ids = [], [], []
    for number in range(count):
        rows.append(RawRow(Origin(number % 2, 7 * number), f'{{"ü": {number}}}'.encode()))
        pairs.append(PreferencePair(f"prompt {number // 3}", f"chosen {number}", "rejected"))
        prompt, chosen, rejected = (array("i", [number] * (1 + number * factor % 11)) for factor in (1, 3, 7))
        unscored = [(0, 1), (2, 3)] if number % 5 == 4 and len(chosen) > 3 else []
        notes = Notes.TURN_CUT | Notes.VARIABLES_NOT_READ if number % 4 == 1 else NOTHING
        cut = Truncated.CHOSEN if number % 6 == 0 else WHOLE
        ids.append(PairIds(prompt, chosen, rejected, cut, notes, unscored_chosen=unscored))
    return rows, pairs, ids


def tokenized(ids: list[PairIds]) -> TokenizedPairs:
    return TokenizedPairs.of(dict(enumerate(ids)))


def opened(blocks: list[tuple[ShardKey, bytes]], dtype: type[np.generic]) -> dict[ShardKey, list[Line]]:
    """The lines of the blocks of each shard."""
    by_shard: dict[ShardKey, list[bytes]] = defaultdict(list)
    for shard, block in blocks:
        by_shard[shard].append(block)
    found: dict[ShardKey, list[Line]] = {}
    for shard, of_shard in by_shard.items():
        with open_blocks(PLACED_PAIRS, of_shard) as items:
            lines = zip(*(values.tolist() for values in items.columns.values()), strict=True)
            found[shard] = [
                (
                    *line,
                    np.frombuffer(items.payload("ids", index), dtype).tolist(),
                    np.frombuffer(items.payload("unscored", index), np.int32).tolist(),
                    items.payload("raw", index).decode(),
                )
                for index, line in enumerate(lines)
            ]
    return found


@pytest.mark.parametrize(("vocab_size", "dtype"), [(300, np.uint16), (1 << 17, np.int32)])
@pytest.mark.parametrize("settings", [{}, {"dedup": "exact"}], ids=str)
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_each_pair_is_in_the_block_of_its_shard(
    batch: int, settings: dict[str, Any], vocab_size: int, dtype: type[np.generic]
):
    rows, pairs, ids = pairs_of(64)
    places = place_pairs(pairs, [row.origin for row in rows], config(**settings), SHARDS)
    expected: dict[ShardKey, list[Line]] = defaultdict(list)
    for index, (row, made) in enumerate(zip(rows, ids, strict=True)):
        first = len(made.prompt)
        line = (
            *(int(column[index]) for column in (places.ranks, places.ids, places.prompt_ids)),
            *row.origin, *map(len, made[:3]), int(made.truncated), int(made.notes),
            [*made.prompt, *made.chosen, *made.rejected],
            [first + bound for run in made.unscored_chosen for bound in run],
            row.as_text() if settings else "",
        )  # fmt: skip
        expected[places.shard(index)].append(line)
    blocks = ShardBlocks(config(**settings), SHARDS, vocab_size)
    for start in range(0, len(rows), batch):
        part = slice(start, start + batch)
        assert blocks.add(rows[part], pairs[part], tokenized(ids[part])) == {}
    assert list(blocks.full()) == []
    assert opened(list(blocks.rest()), dtype) == expected and len(expected) == 5
    assert list(blocks.rest()) == []


def test_blocks_are_given_once_they_are_large(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(placing, "_BLOCK_BYTES", 2000)
    rows, pairs, ids = pairs_of(64)
    blocks = ShardBlocks(config(), SHARDS, 300)
    blocks.add(rows[:4], pairs[:4], tokenized(ids[:4]))
    assert list(blocks.full()) == []
    blocks.add(rows[4:], pairs[4:], tokenized(ids[4:]))
    given = list(blocks.full())
    assert len(given) == 5 and list(blocks.rest()) == []


def test_a_pair_that_cannot_be_placed_is_dropped_alone():
    rows, pairs, ids = pairs_of(8)
    pairs[3] = PreferencePair("p", "half a character: \ud800", "r")
    blocks = ShardBlocks(config(), SHARDS, 300)
    ((number, dropped),) = blocks.add(rows, pairs, tokenized(ids)).items()
    assert number == 3 and dropped.reason == DropReason.ROW_ERROR and "UnicodeEncodeError" in dropped.detail
    assert sum(map(len, opened(list(blocks.rest()), np.uint16).values())) == 7
