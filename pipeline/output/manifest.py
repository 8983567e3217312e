"""Making the manifest from the reports of the workers, and the rules that a run must pass before there is one."""

from collections import Counter
from collections.abc import Iterable, Sequence

from oddsmill.pipeline.output.accounts import FileAccount, check_accounts
from oddsmill.pipeline.output.checks import STORED
from oddsmill.pipeline.output.folder import REJECTS_FOLDER
from oddsmill.pipeline.output.seen import Seen
from oddsmill.pipeline.output.shards import ShardReport
from oddsmill.pipeline.output.tally import Tally
from oddsmill.pipeline.resolved_run import ResolvedRun
from oddsmill.schemas.errors import Refused, RunFailed
from oddsmill.schemas.manifest import Ledger, Manifest, SplitSummary
from oddsmill.schemas.stored.record_stream import PLAIN_VERSION, UNSCORED_VERSION


def make_manifest(
    resolved: ResolvedRun, seen: Seen, reports: Iterable[ShardReport], accounts: Sequence[FileAccount]
) -> Manifest:
    """Adds up the reports to the manifest.

    Raises:
      RunFailed: the ledger does not balance.
      Refused: more rows, of all or of one file, were dropped than `max_drop_share` allows, or no pair is left.
    """
    reports = sorted(reports, key=lambda report: report.shard.name)
    dropped: Counter[str] = Counter()
    for account in accounts:
        dropped.update(account.drops)
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
        rows_in=sum(seen.rows.values()),
        extra_pairs=sum(seen.extra_pairs.values()),
        pairs_out=pairs,
        drops=dict(sorted(dropped.items())),
    )
    _check(ledger, splits, resolved, accounts)
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
        not_read=dict(sorted(seen.not_read.items())),
        writer_options=reports[0].writer_options,
        libraries=resolved.libraries,
        tokenizer_engine=resolved.engine.name,
    )


def _check(
    ledger: Ledger, splits: dict[str, SplitSummary], resolved: ResolvedRun, accounts: Sequence[FileAccount]
) -> None:
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in ledger.drops.items())
    if not ledger.balances():
        raise RunFailed(
            f"the ledger does not balance: {ledger.rows_in} rows in, {ledger.pairs_out} pairs out, drops: {reasons}. "
            "Please report this"
        )
    if ledger.rows_in == 0:
        raise Refused("the input has no rows")
    check_accounts(accounts, resolved)
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
