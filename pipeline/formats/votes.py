"""The format `votes`: two answers to a prompt and who was for which."""

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats.pairs import Pair
from oddsmill.pipeline.formats.ratings import is_absent, make_pair, read_vote, vote_key, votes_for_column
from oddsmill.pipeline.formats.rows import MESSAGE_SETTINGS, Row, RowFormat
from oddsmill.schemas.drops import Dropped, DropReason
from oddsmill.schemas.errors import Refused


def read(row: Row, source: SourceConfig) -> list[Pair]:
    """Pairs two completions; the one with most votes is chosen."""
    answers = row.items("completions")
    if len(answers) != 2:
        raise Dropped(DropReason.WRONG_TYPE, f"{len(answers)} completions, votes are on 2")
    given, columns = _votes_of(row)
    if not given:
        raise Dropped(DropReason.MISSING_FIELD, "the row has no vote")
    votes = Counter(read_vote(vote, source, columns) for vote in given)
    (winner, count), *others = votes.most_common()
    if winner == "tie" or (others and others[0][1] == count):
        raise Dropped(DropReason.TIE, ", ".join(f"{number} for {name}" for name, number in sorted(votes.items())))
    first, second = answers
    return [
        make_pair(row, first, second, source.forms)
        if winner == "first"
        else make_pair(row, second, first, source.forms)
    ]


def check_votes(rows: Iterable[Row], source: SourceConfig) -> None:
    """Refuses votes of 0 and 1 alone: they may count the answers from 0, or mean a tie and the first answer.

    Raises:
      Refused: their meaning must be said.
    """
    votes: set[str] = set()
    for row in rows:
        with suppress(Dropped):
            given, columns = _votes_of(row)
            votes |= {vote_key(vote) for vote in given if not votes_for_column(vote, columns)}
    if votes == {"0", "1"} and not source.vote_values:
        raise Refused(
            "the votes are 0 and 1, which may count the answers from 0, or mean a tie and the first answer; say it by "
            """--source.vote_values='{"0": "first", "1": "second"}' or '{"0": "tie", "1": "first", "2": "second"}'"""
        )


def _votes_of(row: Row) -> tuple[list[Any], Sequence[str]]:
    """Returns the votes of a row that are not null, and the columns of its two answers where they have their own."""
    names = row.names.get("votes", "votes")
    value = row.items("votes") if isinstance(names, list) else row.value("votes")
    if isinstance(value, str) and value.lstrip().startswith("["):  # a table of texts holds its lists as JSON
        value = row.items("votes")
    columns = row.names.get("completions", ())
    given = [vote for vote in (value if isinstance(value, list) else [value]) if not is_absent(vote)]
    return given, columns if isinstance(columns, list) else ()


FORMAT = RowFormat(read, settings=("vote_values", *MESSAGE_SETTINGS), has_scores=False)
