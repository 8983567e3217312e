"""The format `ranked`: several answers to a prompt with their scores, ranks or preferences between them."""

from itertools import combinations
from typing import Any

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats.pairs import Pair
from oddsmill.pipeline.formats.ratings import is_absent, make_pair, read_number, read_vote
from oddsmill.pipeline.formats.rows import MESSAGE_SETTINGS, Row, RowFormat
from oddsmill.schemas.drops import Dropped, DropReason


def read(row: Row, source: SourceConfig) -> list[Pair]:
    """Pairs completions by their scores (higher is better), ranks (lower is better) or labels of their pairs.

    A completion whose score or rank is null, as where nobody rated it, takes no part; nor does a null completion.
    `preferences` holds a label a pair of completions, in the order (1, 2), (1, 3), … (2, 3), …: 1 where the
    first is better, 2 the second, 0 neither; a completion's score is then its wins less its losses.
    """
    answers = row.items("completions")
    if len(answers) < 2:
        raise Dropped(DropReason.MISSING_FIELD, f"{len(answers)} completions, at least 2 are needed")
    margins = _margins(row, answers, source)
    rated = sorted({number for pair in margins for number in pair})
    pairs = list(combinations(rated, 2))
    if source.ranked_pairs == "all":
        better = [(i, j) if margins[i, j] > 0 else (j, i) for i, j in pairs if abs(margins[i, j]) > source.margin]
    else:
        totals = {i: sum(margins[i, j] for j in rated if j != i) for i in rated}
        best, worst = max(rated, key=totals.__getitem__), min(rated, key=totals.__getitem__)
        better = [(best, worst)] if best != worst and margins[best, worst] > source.margin else []
    if not better:
        by_more = f" by more than {source.margin:g}" if source.margin else ""
        raise Dropped(DropReason.TIE, f"no two scores differ{by_more}")
    return [make_pair(row, answers[i], answers[j], source.forms) for i, j in better]


def _margins(row: Row, answers: list[Any], source: SourceConfig) -> dict[tuple[int, int], float]:
    """Returns by how much completion i is better than j, for all i and j that are rated."""
    fields = [name for name in ("scores", "ranks", "preferences") if row.has(name)]
    if len(fields) != 1:
        problem = f"has {' and '.join(fields)}" if fields else "has no scores, ranks or preferences"
        raise Dropped(DropReason.MISSING_FIELD if not fields else DropReason.WRONG_TYPE, f"the row {problem}")
    values = row.items(fields[0])
    pairs = list(combinations(range(len(answers)), 2))
    if len(values) != (len(pairs) if fields[0] == "preferences" else len(answers)):
        raise Dropped(DropReason.WRONG_TYPE, f"{fields[0]} do not fit {len(answers)} completions")
    if fields[0] == "preferences":
        won = {"first": 1.0, "second": -1.0, "tie": 0.0}
        direct = {pair: won[read_vote(label, source)] for pair, label in zip(pairs, values, strict=True)}
        direct |= {(j, i): -margin for (i, j), margin in direct.items()}
        if source.ranked_pairs == "all":
            return direct
        scores = {i: sum(margin for (k, _), margin in direct.items() if k == i) for i in range(len(answers))}
    else:
        sign = -1.0 if fields[0] == "ranks" else 1.0
        rated = [number for number, value in enumerate(values) if not (is_absent(value) or answers[number] is None)]
        scores = {number: sign * read_number(values[number], fields[0]) for number in rated}
        if len(scores) < 2:
            problem = f"{len(scores)} of {len(answers)} completions have {fields[0]}, at least 2 are needed"
            raise Dropped(DropReason.MISSING_FIELD, problem)
    return {(i, j): scores[i] - scores[j] for i in scores for j in scores if i != j}


FORMAT = RowFormat(read, settings=("ranked_pairs", "margin", "vote_values", *MESSAGE_SETTINGS), has_scores=False)
