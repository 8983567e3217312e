"""The format `ranked`: several answers to a prompt with their scores, ranks or preferences between them."""

from itertools import combinations

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats.pairs import Pair
from oddsmill.pipeline.formats.ratings import make_pair, read_number, read_vote
from oddsmill.pipeline.formats.rows import Row, RowFormat
from oddsmill.schemas.drops import Dropped, DropReason


def read(row: Row, source: SourceConfig) -> list[Pair]:
    """Pairs completions by their scores (higher is better), ranks (lower is better) or labels of their pairs.

    `preferences` holds a label a pair of completions, in the order (1, 2), (1, 3), … (2, 3), …: 1 where the
    first is better, 2 the second, 0 neither; a completion's score is then its wins less its losses.
    """
    answers = row.items("completions")
    if len(answers) < 2:
        raise Dropped(DropReason.MISSING_FIELD, f"{len(answers)} completions, at least 2 are needed")
    pairs = list(combinations(range(len(answers)), 2))
    margins = _margins(row, len(answers), source)
    if source.ranked_pairs == "all":
        better = [(i, j) if margins[i, j] > 0 else (j, i) for i, j in pairs if abs(margins[i, j]) > source.margin]
    else:
        totals = [sum(margins[i, j] for j in range(len(answers)) if j != i) for i in range(len(answers))]
        best, worst = totals.index(max(totals)), totals.index(min(totals))
        better = [(best, worst)] if best != worst and margins[best, worst] > source.margin else []
    if not better:
        by_more = f" by more than {source.margin:g}" if source.margin else ""
        raise Dropped(DropReason.TIE, f"no two scores differ{by_more}")
    return [make_pair(row, answers[i], answers[j]) for i, j in better]


def _margins(row: Row, count: int, source: SourceConfig) -> dict[tuple[int, int], float]:
    """Returns by how much completion i is better than j, for all i and j."""
    fields = [name for name in ("scores", "ranks", "preferences") if row.has(name)]
    if len(fields) != 1:
        problem = f"has {' and '.join(fields)}" if fields else "has no scores, ranks or preferences"
        raise Dropped(DropReason.MISSING_FIELD if not fields else DropReason.WRONG_TYPE, f"the row {problem}")
    values = row.items(fields[0])
    pairs = list(combinations(range(count), 2))
    if fields[0] != "preferences":
        sign = -1.0 if fields[0] == "ranks" else 1.0
        scores = [sign * read_number(value, fields[0]) for value in values]
    else:
        labels = [read_vote(value, source) for value in values]
        labels = labels[: len(pairs)] if len(labels) == len(pairs) else []
        values = [0] * count if labels else []
        won = {"first": 1.0, "second": -1.0, "tie": 0.0}
        direct = {pair: won[label] for pair, label in zip(pairs, labels, strict=False)}
        direct |= {(j, i): -margin for (i, j), margin in direct.items()}
        if source.ranked_pairs == "all" and labels:
            return direct
        scores = [sum(margin for (i, _), margin in direct.items() if i == answer) for answer in range(count)]
    if len(values) != count:
        raise Dropped(DropReason.WRONG_TYPE, f"{fields[0]} do not fit {count} completions")
    return {(i, j): scores[i] - scores[j] for i in range(count) for j in range(count) if i != j}


FORMAT = RowFormat(read, settings=("ranked_pairs", "margin", "vote_values"), has_scores=False)
