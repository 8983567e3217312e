"""The account of each input file: its rows and their drops. run.json keeps it, as the manifest knows no files."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from oddsmill.pipeline.output.folder import REJECTS_FOLDER, publish_for_launcher, take_from_workers
from oddsmill.pipeline.output.seen import Seen
from oddsmill.pipeline.resolved_run import ResolvedRun
from oddsmill.pipeline.resolved_sources import is_negligible
from oddsmill.schemas.drops import DropReason
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.locks.lock import Lock

# Where these are the reasons, the rows were read as something that they are not.
LAYOUT_REASONS = frozenset(
    {
        DropReason.UNREADABLE,
        DropReason.WRONG_TYPE,
        DropReason.MISSING_FIELD,
        DropReason.BAD_ROLES,
        DropReason.NO_COMMON_PROMPT,
        DropReason.UNSUPPORTED_CONTENT,
        DropReason.TRL_ERROR,
    }
)
_MANY = 0.1  # the share of drops above which the summary names a file
_FILES_SHOWN = 5


class FileDrops(NamedTuple):
    """The drops of one input file by reason; `file` is its number.

    Attributes:
      digests: of the file of its rejects, by its name in the folder.
    """

    file: int
    drops: Mapping[str, int]
    digests: Mapping[str, str] = {}


class FileAccount(NamedTuple):
    """The account of one input file: rows in, further pairs of its rows, drops by reason."""

    path: str
    rows: int
    extra_pairs: int
    drops: Mapping[str, int]

    @property
    def candidates(self) -> int:
        """The number of pairs that there would be without drops."""
        return self.rows + self.extra_pairs

    def describe(self, counted: Iterable[str] | None = None) -> str:
        """Returns how many were dropped and why, of all reasons or of those that are counted."""
        drops = {reason: count for reason, count in self.drops.items() if counted is None or reason in counted}
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(drops.items()))
        what = "pairs" if self.extra_pairs else "rows"
        return f"{sum(drops.values()):,} of {self.candidates:,} {what} were dropped ({reasons})"


def make_accounts(paths: Sequence[str], seen: Seen, drops: Iterable[FileDrops]) -> list[FileAccount]:
    """Returns the account of each file, in the order of the input."""
    by_file = {each.file: each.drops for each in drops}
    return [
        FileAccount(path, seen.rows.get(file, 0), seen.extra_pairs.get(file, 0), by_file.get(file, {}))
        for file, path in enumerate(paths)
    ]


def check_accounts(accounts: Sequence[FileAccount], resolved: ResolvedRun) -> None:
    """Holds each of several files to `max_drop_share` as if it were given alone, for drops that its layout explains.

    A file of a few rows among very many is left to the summary.

    Raises:
      Refused: names the file, and how it was read.
    """
    total = sum(account.rows for account in accounts)
    limit = resolved.config.max_drop_share
    beyond = [
        (file, account)
        for file, account in enumerate(accounts)
        if sum(account.drops.get(reason, 0) for reason in LAYOUT_REASONS) > limit * account.candidates
        and not is_negligible(account.rows, account.rows, total)
    ]
    if not beyond or len(beyond) == len([account for account in accounts if account.rows]):
        return  # where it is all files, the share of the whole says so
    file, account = beyond[0]
    others = f" (and so {len(beyond) - 1:,} more files)" if len(beyond) > 1 else ""
    raise Refused(
        f"{account.path}: {account.describe(LAYOUT_REASONS)}, more than --max_drop_share={limit} allows of a file; "
        f"it was read as {resolved.sources[file].format}{others}. {resolved.output}/{REJECTS_FOLDER}/ holds each row "
        "with its reason. Give this file as a source of its own, with its format and fields "
        """(--source='[{"path": …, "format": …}, …]'), or leave it out"""
    )


def describe_accounts(accounts: Sequence[FileAccount]) -> list[str]:
    """Returns a line for each of several files of which many rows were dropped, the worst first."""
    many = [account for account in accounts if sum(account.drops.values()) > _MANY * account.candidates]
    if len(accounts) == 1:
        return []
    many.sort(key=lambda account: (-sum(account.drops.values()), account.path))
    lines = [f"{account.path}: {account.describe()}" for account in many[:_FILES_SHOWN]]
    return lines + [f"and of {len(many) - _FILES_SHOWN:,} more files"] * (len(many) > _FILES_SHOWN)


def publish_accounts(
    output: str, accounts: Sequence[FileAccount], digests: Mapping[str, str], lock: Lock | None = None
) -> None:
    """Leaves the accounts, and the digests of the files that run.json has them of, in the output for the launcher."""
    publish_for_launcher(output, {"inputs": [account._asdict() for account in accounts], "files": digests}, lock)


def take_accounts(output: str) -> tuple[list[FileAccount], dict[str, str]]:
    """Returns the accounts and the digests that the workers left, and removes them."""
    left = take_from_workers(output)
    return [FileAccount(**fields) for fields in left["inputs"]], left["files"]
