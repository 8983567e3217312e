"""Data checks: what is counted of the stored pairs, under which names, and what each name means.

The writer counts what it writes and `verify` what it reads, by the same function. The sums do not depend on the
order of the work, so they stand in the manifest under `counts`, beside what only the tokenizer's step can see.
"""

import numpy as np

from schemas.manifest import TokenizerSummary
from schemas.record import Row

# Counted from stored rows, and so again by `verify`.
STORED = {
    "bos_not_once": "pairs that do not begin with BOS and hold it nowhere else; 0 where the tokenizer has none",
    "chosen_ends_in_eos": "chosen answers whose last token is EOS",
    "rejected_ends_in_eos": "rejected answers whose last token is EOS",
    "eos_inside_answer": "pairs with EOS before the last token of an answer",
    "chosen_longer": "pairs whose chosen answer has more tokens than the rejected one",
    "rejected_longer": "pairs whose rejected answer has more tokens than the chosen one",
}
# All names of `counts`.
MEANINGS = STORED | {
    "exact_duplicates": "pairs that repeat the texts of another",
    "boundary_merged": "pairs with a token that spans the end of the prompt's text",
    "split_at_turn": "pairs whose answers begin with the header of their turn, as the template's prompt is no prefix",
    "turns_dropped": "pairs whose oldest turns gave way to the length rules",
    "prompts_differ": "compat trl: pairs whose sides had different prompts; they share what is common",
}


def count_stored(row: Row, tokenizer: TokenizerSummary) -> dict[str, int]:
    """How many pairs of a row each name of `STORED` holds of."""
    lengths = np.stack([row.prompt_lengths, row.chosen_lengths, row.rejected_lengths], axis=1).astype(np.int64)
    side_ends = np.cumsum(lengths.ravel()).reshape(-1, 3)
    side_starts = side_ends - lengths
    tokens = row.tokens[: side_ends[-1, 2]]

    def held(token_id: int) -> np.ndarray:
        """[n, 3]: how often each side holds a token."""
        return np.add.reduceat((tokens == token_id).astype(np.int64), side_starts.ravel()).reshape(-1, 3)

    ends_in_eos = tokens[side_ends - 1] == tokenizer.eos_id
    eos_inside = held(tokenizer.eos_id)[:, 1:] > ends_in_eos[:, 1:]
    bos_not_once = np.zeros(len(row), bool)
    if tokenizer.bos_id is not None:
        bos = held(tokenizer.bos_id)
        if tokenizer.bos_id == tokenizer.eos_id:
            bos = bos[:, :1]  # in an answer it is an EOS
        bos_not_once = (tokens[side_starts[:, 0]] != tokenizer.bos_id) | (bos.sum(axis=1) != 1)
    _, chosen, rejected = lengths.T
    found = {
        "bos_not_once": bos_not_once,
        "chosen_ends_in_eos": ends_in_eos[:, 1],
        "rejected_ends_in_eos": ends_in_eos[:, 2],
        "eos_inside_answer": eos_inside.any(axis=1),
        "chosen_longer": chosen > rejected,
        "rejected_longer": rejected > chosen,
    }
    return {name: int(pairs.sum()) for name, pairs in found.items()}


def describe(counts: dict[str, int], pairs: int, *, bos_id: int | None) -> list[str]:
    """The checks of a dataset for people, one line each: those that say something.

    Args:
      pairs: of the dataset.
    """
    lines = []
    if bos_id is not None:
        wrong = counts.get("bos_not_once", 0)
        lines.append(f"BOS exactly once in {pairs - wrong:,} of {pairs:,} pairs")
    if "chosen_ends_in_eos" in counts:
        lines.append(
            f"EOS ends {counts['chosen_ends_in_eos'] / pairs:.1%} of the chosen answers, "
            f"{counts['rejected_ends_in_eos'] / pairs:.1%} of the rejected"
        )
        lines.append(
            f"the chosen answer is the longer one in {counts['chosen_longer'] / pairs:.1%}, "
            f"the shorter in {counts['rejected_longer'] / pairs:.1%}"
        )
    for name in ("exact_duplicates", "boundary_merged", "split_at_turn", "turns_dropped", "prompts_differ"):
        if counts.get(name):
            advice = "; --dedup=exact drops them" if name == "exact_duplicates" else ""
            lines.append(f"{counts[name]:,} {MEANINGS[name]}{advice}")
    if counts.get("eos_inside_answer"):
        lines.append(f"{counts['eos_inside_answer']:,} {MEANINGS['eos_inside_answer']}")
    return lines
