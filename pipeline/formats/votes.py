"""The format `votes`: two answers to a prompt and who was for which."""

from collections import Counter

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats.pairs import Pair
from oddsmill.pipeline.formats.ratings import is_absent, make_pair, read_vote
from oddsmill.pipeline.formats.rows import MESSAGE_SETTINGS, Row, RowFormat
from oddsmill.schemas.drops import Dropped, DropReason


def read(row: Row, source: SourceConfig) -> list[Pair]:
    """Pairs two completions; the one with most votes is chosen."""
    answers = row.items("completions")
    if len(answers) != 2:
        raise Dropped(DropReason.WRONG_TYPE, f"{len(answers)} completions, votes are on 2")
    names = row.names.get("votes", "votes")
    value = row.items("votes") if isinstance(names, list) else row.value("votes")
    columns = row.names.get("completions", ())
    given = [vote for vote in (value if isinstance(value, list) else [value]) if not is_absent(vote)]
    if not given and value != []:
        raise Dropped(DropReason.MISSING_FIELD, "the row has no vote")
    votes = Counter(read_vote(vote, source, columns if isinstance(columns, list) else ()) for vote in given)
    (winner, count), *others = votes.most_common() or [("tie", 0)]
    if winner == "tie" or (others and others[0][1] == count):
        raise Dropped(DropReason.TIE, ", ".join(f"{number} for {name}" for name, number in sorted(votes.items())))
    first, second = answers
    return [
        make_pair(row, first, second, source.forms)
        if winner == "first"
        else make_pair(row, second, first, source.forms)
    ]


FORMAT = RowFormat(read, settings=("vote_values", *MESSAGE_SETTINGS), has_scores=False)
