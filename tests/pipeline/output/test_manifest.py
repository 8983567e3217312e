from types import SimpleNamespace
from typing import Any

import pytest

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.output.accounts import FileAccount
from oddsmill.pipeline.output.manifest import make_manifest
from oddsmill.pipeline.output.seen import Seen
from oddsmill.pipeline.output.shards import ShardReport
from oddsmill.pipeline.output.tally import Tally
from oddsmill.schemas.engines.choice import TOKENIZERS
from oddsmill.schemas.errors import Refused, RunFailed
from oddsmill.schemas.manifest import Manifest, Shard, TokenizerSummary
from oddsmill.schemas.record import Pair, make_row

TOKENIZER = TokenizerSummary(sha256={}, chat_template_sha256=None, bos_id=1, eos_id=2, pad_id=0, vocab_size=50)


def report(split: Any, index: int, pairs: int) -> ShardReport:
    """Makes the report of a worker that has written so many pairs, a row each."""
    tally = Tally()
    for number in range(pairs):
        made = Pair(prompt=[1], chosen=[2], rejected=[2], id=number)
        tally.add_rows([make_row([made], row_length=8, pad_id=0, vocab_size=50)], TOKENIZER)
    shard = Shard(name=f"{split}-{index}", records=pairs, bytes=1, sha256="0")
    return ShardReport(split, shard, tally, {"turn_cut": pairs}, exact_duplicates=index, writer_options="o")


def make(
    *reports: ShardReport, rows: int, drops: dict[str, int] | None = None, extra_pairs: int = 0, **changes: Any
) -> Manifest:
    config = PreprocessConfig(
        source=SourceConfig(path="a"), tokenizer="t", output="out", row_length=8, max_length=8, **changes
    )
    resolved: Any = SimpleNamespace(
        config=config, output="out", num_shards={"train": 2, "eval": 1}, tool_version="test", settings={},
        tokenizer=TOKENIZER, libraries={}, engine=TOKENIZERS,
    )  # fmt: skip
    seen = Seen({0: rows}, 255, {0: extra_pairs}, {"system": 3})
    return make_manifest(resolved, seen, reports, [FileAccount("a", rows, extra_pairs, drops or {})])


REPORTS = (report("eval", 0, 1), report("train", 1, 2), report("train", 0, 3))


def test_the_reports_of_all_workers_are_added_up():
    manifest = make(*REPORTS, rows=8, drops={"tie": 2})
    assert [shard.name for shard in manifest.splits["train"].shards] == ["train-0", "train-1"]
    assert (manifest.splits["train"].pairs, manifest.splits["eval"].pairs) == (5, 1)
    assert (manifest.ledger.rows_in, manifest.ledger.pairs_out, manifest.ledger.drops) == (8, 6, {"tie": 2})
    assert (manifest.counts["turn_cut"], manifest.counts["exact_duplicates"]) == (6, 1)
    assert manifest.source_fingerprint == f"{255:032x}"
    assert manifest.not_read == {"system": 3}


def test_the_order_of_the_reports_does_not_matter():
    assert make(*REPORTS, rows=6).to_json() == make(*REPORTS[::-1], rows=6).to_json()


def test_a_ledger_that_does_not_balance_is_a_failure():
    for rows, drops in ((7, {}), (6, {"tie": 1})):
        with pytest.raises(RunFailed, match="the ledger does not balance"):
            make(*REPORTS, rows=rows, drops=drops)
    make(*REPORTS, rows=5, extra_pairs=1)


def test_too_many_drops_are_refused():
    with pytest.raises(Refused, match=r"7 of 13 rows were dropped \(tie 7\), more than --max_drop_share=0.5 allows"):
        make(*REPORTS, rows=13, drops={"tie": 7})
    make(*REPORTS, rows=13, drops={"tie": 7}, max_drop_share=0.6)


def test_a_dataset_without_a_pair_to_train_on_is_refused():
    nothing = (report("train", 0, 0), report("eval", 0, 0))
    with pytest.raises(Refused, match="the input has no rows"):
        make(*nothing, rows=0)
    with pytest.raises(Refused, match="no pair is left: all 3 rows were dropped"):
        make(*nothing, rows=3, drops={"tie": 3}, max_drop_share=1.0)
    with pytest.raises(Refused, match="all 1 pairs fell to the eval split"):
        make(report("train", 0, 0), report("eval", 0, 1), rows=1)
