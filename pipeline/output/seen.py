"""The account that readers and parsers keep of the rows: how many, by file; and the columns that no one read."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from oddsmill.pipeline.formats import keys

# Rows whose keys are data have columns without end. Those first in the alphabet are kept: of these every worker counts
# all, so that the sums are exact.
_COLUMNS_KEPT = 1000
_COLUMNS_SHOWN = 12


class Seen(NamedTuple):
    """Counts what was seen of the rows; the sums over all parts are the run's.

    Attributes:
      rows: the number of rows read, by the number of their file.
      digest: the sum of the rows' fingerprints.
      extra_pairs: the number of pairs beyond the first of each row, by file.
      not_read: the number of rows with pairs in which a column holds something that is not read, by column.
    """

    rows: Mapping[int, int] = {}
    digest: int = 0
    extra_pairs: Mapping[int, int] = {}
    not_read: Mapping[str, int] = {}


def add_seen(parts: Iterable[Seen]) -> Seen:
    """Adds up what the readers and parsers have seen."""
    rows, extra_pairs, not_read = Counter[int](), Counter[int](), Counter[str]()
    digest = 0
    for part in parts:
        rows.update(part.rows)
        extra_pairs.update(part.extra_pairs)
        not_read.update(part.not_read)
        digest = (digest + part.digest) % keys.FINGERPRINT_MODULUS
    return Seen(dict(rows), digest, dict(extra_pairs), _first_columns(not_read))


def see_columns(not_read: Mapping[str, int]) -> dict[str, int]:
    """Returns the counts of a batch under names that UTF-8 can hold."""
    columns = Counter[str]()
    for name, count in not_read.items():
        columns[name.encode("utf-8", "backslashreplace").decode()] += count
    return _first_columns(columns)


def describe_not_read(not_read: Mapping[str, int], *, of: int | None = None) -> str:
    """Returns the columns that were not read as a person reads them, the fullest first.

    Args:
      of: the number of rows looked at, where these are not all.
    """
    columns = sorted(not_read.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{name if name.strip() else repr(name)} ({_rows(count)})" for name, count in columns]
    more = [f"{len(shown) - _COLUMNS_SHOWN:,} more columns"] if len(shown) > _COLUMNS_SHOWN else []
    looked_at = [] if of is None else [f"of {_rows(of)} looked at"]
    return ", ".join([*shown[:_COLUMNS_SHOWN], *more, *looked_at])


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"


def _first_columns(columns: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(columns.items())[:_COLUMNS_KEPT])
