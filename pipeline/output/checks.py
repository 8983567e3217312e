"""Data checks: the properties of stored pairs that are counted, with their names and meanings.

The writer counts what it writes and `verify` what it reads, by the same function. The sums do not depend on the
order of the work, so they stand in the manifest under `counts`, beside what only the tokenizer's step can see.
"""

from collections.abc import Sequence

import numpy as np

from oddsmill.pipeline.formats.pairs import NOTE_MEANINGS
from oddsmill.pipeline.tokens.left_out import KINDS
from oddsmill.schemas.manifest import TokenizerSummary
from oddsmill.schemas.record import Row

# Counted from stored rows, and so again by `verify`.
STORED = {
    "bos_not_once": "pairs that hold BOS, but not at their beginning, or elsewhere too; where BOS begins the turns of "
    "the template as well, pairs that do not begin with one, or begin with two; 0 where the tokenizer has none",
    "without_bos": "pairs that do not hold BOS, since neither the tokenizer nor the chat template writes it",
    "chosen_ends_in_eos": "chosen answers that end in EOS or in the template's end of a turn",
    "rejected_ends_in_eos": "rejected answers that end in EOS or in the template's end of a turn",
    "eos_inside_answer": "pairs with EOS before the end of an answer, but for one that ends a turn before another",
    "chosen_longer": "pairs whose chosen answer has more tokens than the rejected one",
    "rejected_longer": "pairs whose rejected answer has more tokens than the chosen one",
    "identical_ids": "pairs whose chosen and rejected answers are the same tokens, as compat trl keeps them",
}
# All names of `counts`.
MEANINGS = (
    STORED
    | {"exact_duplicates": "pairs that repeat the texts of another"}
    | {note.label: meaning for note, meaning in NOTE_MEANINGS.items()}
)
_ADVICE = {
    "exact_duplicates": "; --dedup=exact drops them",
    "identical_ids": "; they teach no preference",
    "white_space_alone": "; a model learns spaces and line breaks of them. Is that what the preferences are about?",
    "case_alone": "; a model learns capitals of them. Is that what the preferences are about?",
    "boundary_merged": "; that token is the answer's. prompts that end in a line break seldom have one",
} | dict.fromkeys(
    (note.label for note in KINDS),
    "; oddsmill pipeline explain shows the texts, another --chat_template may write them, "
    "--require_rendered=true drops such pairs",
)


def count_stored(row: Row, tokenizer: TokenizerSummary) -> dict[str, int]:
    """Counts the pairs of a row that have each property of `STORED`."""
    lengths = np.stack([row.prompt_lengths, row.chosen_lengths, row.rejected_lengths], axis=1).astype(np.int64)
    ends = np.cumsum(lengths.ravel()).reshape(-1, 3)
    starts = ends - lengths
    tokens = row.tokens[: ends[-1, 2]]
    endings = [tokenizer.eos_id, *tokenizer.turn_end[:1]]
    # A template may write on after the end of a turn, as ChatML does a newline.
    trailing = _is_any(tokens, [token for token in tokenizer.turn_end if token not in endings])
    last = ends - 1
    for _ in tokenizer.turn_end:
        last = np.where(trailing[last] & (last > starts), last - 1, last)
    ended = _is_any(tokens[last], endings)
    bos_not_once, without_bos = _bos(tokens, starts, tokenizer)
    found = {
        "bos_not_once": bos_not_once,
        "without_bos": without_bos,
        "chosen_ends_in_eos": ended[:, 1],
        "rejected_ends_in_eos": ended[:, 2],
        "eos_inside_answer": _eos_inside(row, trailing, ends, np.where(ended, last, ends), tokenizer),
        "chosen_longer": lengths[:, 1] > lengths[:, 2],
        "rejected_longer": lengths[:, 2] > lengths[:, 1],
        "identical_ids": _identical(tokens, starts, ends),
    }
    return {name: int(pairs.sum()) for name, pairs in found.items()}


def _is_any(tokens: np.ndarray, wanted: Sequence[int]) -> np.ndarray:
    """Returns which tokens are one of a few, in their shape; `np.isin` takes three times as long for few."""
    found = np.zeros(tokens.shape, bool)
    for token in wanted:
        found |= tokens == token
    return found


def _bos(tokens: np.ndarray, starts: np.ndarray, tokenizer: TokenizerSummary) -> tuple[np.ndarray, np.ndarray]:
    """Returns [n] bool: the pairs that hold BOS, but not once at their beginning; and those that do not hold it."""
    if tokenizer.bos_id is None:
        return np.zeros(len(starts), bool), np.zeros(len(starts), bool)
    is_bos = tokens == tokenizer.bos_id
    begins = is_bos[starts[:, 0]]
    held = np.add.reduceat(is_bos.astype(np.int64), starts.ravel()).reshape(-1, 3)
    if tokenizer.bos_id == tokenizer.eos_id:
        held = held[:, :1]  # in an answer it is an EOS
    number = held.sum(axis=1)
    more = number > 1
    if tokenizer.bos_id == tokenizer.turn_start_id:
        second = np.minimum(starts[:, 0] + 1, starts[:, 1] - 1)  # of a prompt of one token, that token
        more = is_bos[second] & (second > starts[:, 0])
    return (number > 0) & (~begins | more), number == 0


def _identical(tokens: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Returns [n] bool: the pairs whose answers are the same tokens."""
    lengths = ends[:, 1] - starts[:, 1]
    found = lengths == ends[:, 2] - starts[:, 2]
    alike = np.flatnonzero(found)
    if len(alike):
        of_each, firsts = lengths[alike], np.cumsum(lengths[alike]) - lengths[alike]
        slots = np.arange(of_each.sum()) + np.repeat(starts[alike, 1] - firsts, of_each)
        found[alike] = np.logical_and.reduceat(tokens[slots] == tokens[slots + np.repeat(of_each, of_each)], firsts)
    return found


def _eos_inside(
    row: Row, trailing: np.ndarray, ends: np.ndarray, last: np.ndarray, tokenizer: TokenizerSummary
) -> np.ndarray:
    """Returns [n] bool: the pairs with EOS inside an answer; `last` is the place of the token that ends a side."""
    tokens = row.tokens[: len(trailing)]
    places = np.flatnonzero(tokens == tokenizer.eos_id)
    sides = np.searchsorted(ends.ravel(), places, side="right")
    inside = (sides % 3 > 0) & (places < last.ravel()[sides])
    starts_turns = tokenizer.turn_start_id is not None and tokenizer.eos_id in tokenizer.turn_end[:1]
    if starts_turns or len(row.unscored):
        following = places + 1
        bound = len(tokens) - 1
        for _ in tokenizer.turn_end:
            following = following + trailing[np.minimum(following, bound)]
        begins_turn = np.isin(np.minimum(following, bound), row.unscored[:, 0])
        if starts_turns:
            begins_turn |= tokens[np.minimum(following, bound)] == tokenizer.turn_start_id
        inside &= ~(begins_turn & (following < ends.ravel()[sides]))
        inside &= ~_are_unscored(row, places)
    found = np.zeros(len(ends), bool)
    found[sides[inside] // 3] = True
    return found


def _are_unscored(row: Row, places: np.ndarray) -> np.ndarray:
    """Returns [m] bool: the tokens at `places` that no loss counts."""
    run = np.searchsorted(row.unscored[:, 0], places, side="right") - 1  # the last that begins up to there
    ends = np.append(row.unscored[:, 1], 0)  # of none: 0
    return places < ends[run]


def describe(counts: dict[str, int], pairs: int, tokenizer: TokenizerSummary) -> list[str]:
    """Describes the checks of a dataset, one line each, for people; checks that say nothing are left out.

    Args:
      pairs: of the dataset.
    """
    lines = []
    if tokenizer.bos_id is not None:
        without = counts.get("without_bos", 0)
        right = f"{pairs - counts.get('bos_not_once', 0) - without:,} of {pairs:,} pairs"
        marks_turns = tokenizer.bos_id == tokenizer.turn_start_id
        said = f"BOS, which begins turns too, begins {right}" if marks_turns else f"BOS exactly once in {right}"
        lines.append("BOS in no pair" if without == pairs else said)
    if "chosen_ends_in_eos" in counts:
        what = "EOS or the end of a turn" if tokenizer.turn_end else "EOS"
        lines.append(
            f"{what} ends {counts['chosen_ends_in_eos'] / pairs:.1%} of the chosen answers, "
            f"{counts['rejected_ends_in_eos'] / pairs:.1%} of the rejected"
        )
        lines.append(
            f"the chosen answer is the longer one in {counts['chosen_longer'] / pairs:.1%}, "
            f"the shorter in {counts['rejected_longer'] / pairs:.1%}"
        )
    for name in ("exact_duplicates", "identical_ids", *(note.label for note in NOTE_MEANINGS)):
        if counts.get(name):
            lines.append(f"{counts[name]:,} {MEANINGS[name]}{_ADVICE.get(name, '')}")
    if counts.get("eos_inside_answer"):
        lines.append(f"{counts['eos_inside_answer']:,} {MEANINGS['eos_inside_answer']}")
    return lines
