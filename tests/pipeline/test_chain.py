"""The chain by itself: rows in, blocks, rejects and an account out, whatever the batches are."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.chain import Chain, Made, fingerprint_rows
from oddsmill.pipeline.formats import keys
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.pipeline.output.blocks import open_blocks
from oddsmill.pipeline.output.placing import PLACED_PAIRS
from oddsmill.pipeline.output.rejects import REJECTS
from oddsmill.pipeline.output.seen import Seen, add_seen
from oddsmill.pipeline.resolved_run import ResolvedRun, resolve_run
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.schemas.drops import Origin

ROWS = [
    *({"prompt": f"Question {n}", "chosen": f" yes {n}", "rejected": " no", "topic": "s", "id": n} for n in range(6)),
    {"prompt": "Question", "chosen": " ", "rejected": " no", "topic": "s"},
    {"prompt": "long " * 99, "chosen": " yes", "rejected": " no", "topic": ""},
]
LINES = [*(json.dumps(row).encode() for row in ROWS), b"broken"]


@pytest.fixture
def resolved(tokenizer_folder: Path, tmp_path: Path) -> ResolvedRun:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(LINES))
    config = PreprocessConfig(
        source=SourceConfig(path=str(path)), tokenizer=str(tokenizer_folder), output=str(tmp_path / "out"),
        max_length=64, max_prompt_length=32, overlong="drop", eval_share=0.3,
    )  # fmt: skip
    return resolve_run(config)


def chained(resolved: ResolvedRun, batches: Sequence[Sequence[RawRow]]) -> list[Made]:
    chain = Chain(resolved, load_tokenizer(resolved.tokenizer_folder))
    return [*map(chain.add, batches), chain.finish()]


def contents(made: Sequence[Made]) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """Lists the pairs, with their shard, and the rejects of several outputs of a chain, in order."""
    pairs, rejects = [], []
    for one in made:
        for key, block in one.blocks:
            with open_blocks(PLACED_PAIRS, [block]) as items:
                rows = zip(*(values.tolist() for values in items.columns.values()), strict=True)
                pairs += [(*key, *row, items.payload("ids", index)) for index, row in enumerate(rows)]
        for file, block in one.rejects:
            with open_blocks(REJECTS, [block]) as items:
                rejects += [(file, items.payload("line", index)) for index in range(len(items))]
    return sorted(pairs), sorted(rejects)


@pytest.mark.parametrize("size", [1, 4])
def test_pairs_rejects_and_the_account_do_not_depend_on_the_batches(resolved: ResolvedRun, size: int):
    rows = [RawRow(Origin(0, number), line) for number, line in enumerate(LINES)]
    whole = chained(resolved, [rows])
    parts = chained(resolved, [rows[start : start + size] for start in range(0, len(rows), size)])
    assert contents(parts) == contents(whole)
    pairs, rejects = contents(whole)
    assert (len(pairs), len(rejects)) == (6, 3)
    assert sum(made.digest for made in parts) == fingerprint_rows(rows)
    seen = Seen({0: 9}, fingerprint_rows(rows) % keys.FINGERPRINT_MODULUS, {}, {"topic": 6, "id": 6})
    for made in (whole, parts):
        assert add_seen(one.seen for one in made if one.seen) == seen


def test_what_was_finished_is_not_given_again(resolved: ResolvedRun):
    chain = Chain(resolved, load_tokenizer(resolved.tokenizer_folder))
    chain.add([RawRow(Origin(0, 0), LINES[0])])
    assert chain.finish().blocks
    assert chain.finish() == Made(0, [], [], Seen())
