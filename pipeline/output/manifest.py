"""Making the manifest from the reports of the workers, and the rules that a run must pass before there is one."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from oddsmill.pipeline.output.checks import STORED
from oddsmill.pipeline.output.folder import REJECTS_FOLDER
from oddsmill.pipeline.output.shards import ShardReport
from oddsmill.pipeline.output.tally import Tally
from oddsmill.pipeline.resolved_run import ResolvedRun
from oddsmill.schemas.errors import Refused, RunFailed
from oddsmill.schemas.manifest import Ledger, Manifest, SplitSummary
from oddsmill.schemas.record import PLAIN_VERSION, UNSCORED_VERSION


class Seen(NamedTuple):
    """The number of rows read, the sum of their fingerprints, and the number of pairs beyond the first of each row."""

    rows: int
    digest: int
    extra_pairs: int = 0


def make_manifest(
    resolved: ResolvedRun, seen: Seen, reports: Iterable[ShardReport], drops: Iterable[dict[str, int]]
) -> Manifest:
    """Adds up the reports to the manifest.

    Raises:
      RunFailed: the ledger does not balance.
      Refused: more rows were dropped than `max_drop_share` allows, or no pair is left.
    """
    reports = sorted(reports, key=lambda report: report.shard.name)
    dropped: Counter[str] = Counter()
    for reasons in drops:
        dropped.update(reasons)
    splits: dict[str, SplitSummary] = {}
    checks = dict.fromkeys(STORED, 0)
    for split in resolved.num_shards:
        own = [report for report in reports if report.split == split]
        tally = Tally()
        for report in own:
            tally.merge(report.tally)
        checks = {name: number + tally.checks[name] for name, number in checks.items()}
        splits[split] = tally.summary([report.shard for report in own], row_length=resolved.config.slots)
    pairs = sum(split.pairs for split in splits.values())
    ledger = Ledger(
        rows_in=seen.rows, extra_pairs=seen.extra_pairs, pairs_out=pairs, drops=dict(sorted(dropped.items()))
    )
    _check(ledger, splits, resolved)
    has_unscored = any(split.unscored for split in splits.values())
    return Manifest(
        schema_version=UNSCORED_VERSION if has_unscored else PLAIN_VERSION,
        tool_version=resolved.tool_version,
        settings=resolved.settings,
        tokenizer=resolved.tokenizer,
        source_fingerprint=f"{seen.digest:032x}",
        row_length=resolved.config.slots,
        splits=splits,
        ledger=ledger,
        counts=checks
        | {
            **{name: sum(report.notes[name] for report in reports) for name in reports[0].notes},
            "exact_duplicates": sum(report.exact_duplicates for report in reports),
        },
        writer_options=reports[0].writer_options,
        libraries=resolved.libraries,
    )


def _check(ledger: Ledger, splits: dict[str, SplitSummary], resolved: ResolvedRun) -> None:
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in ledger.drops.items())
    if not ledger.balances():
        raise RunFailed(
            f"the ledger does not balance: {ledger.rows_in} rows in, {ledger.pairs_out} pairs out, drops: {reasons}. "
            "Please report this"
        )
    if ledger.rows_in == 0:
        raise Refused("the input has no rows")
    dropped = sum(ledger.drops.values())
    where = f"{resolved.output}/{REJECTS_FOLDER}/ holds each row with its reason"
    candidates = ledger.rows_in + ledger.extra_pairs
    if dropped > resolved.config.max_drop_share * candidates:
        raise Refused(
            f"{dropped:,} of {candidates:,} {'pairs' if ledger.extra_pairs else 'rows'} were dropped ({reasons}), "
            f"more than --max_drop_share={resolved.config.max_drop_share} allows; {where}"
        )
    if ledger.pairs_out == 0:
        raise Refused(f"no pair is left: all {ledger.rows_in:,} rows were dropped ({reasons}); {where}")
    if "train" in splits and splits["train"].pairs == 0:
        raise Refused(f"all {ledger.pairs_out} pairs fell to the eval split; give more rows or a lower --eval_share")
