"""The arrays that the model sees of a row, derived from the stored tokens and lengths: the home of the one-row layout.

For the pair prompt `p0 p1 p2`, chosen `c0 c1 e`, rejected `r0 e`:

    inputs     p0 p1 | p2 c0 c1 | p2 r0     each answer begins with a copy of the last prompt token,
    labels     p1 p2 | c0 c1 e  | r0 e      so every position has exactly one label
    branch      1  1 |  2  2  2 |  3  3     prompt, chosen, rejected (0 = padding)
    segment     1  1    1  1  1    1  1     which pair of the row, from 1 (0 = padding)
    position    0  1    2  3  4    2  3     the rejected side restarts after the prompt
    end         7  7    5  5  5    7  7     mask: key <= query and query < end[key]

An answer of several turns holds unscored tokens (schemas/record.py), which no loss counts. They are told by the branch
alone: for chosen `c0 t0 c1`, of which `t0` is a tool's, and rejected `r0`:

    labels     p1 p2 | c0 t0 c1 | r0
    branch      1  1 |  2  4  2 |  3     4 and 5 are unscored labels of chosen and of rejected

The prompt is there once, and the mask makes the row equal to the two sequences prompt+chosen and
prompt+rejected: a query sees earlier keys of its own pair whose branch is the prompt's or its own.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from oddsmill.schemas.record import Row

PADDING, PROMPT, CHOSEN, REJECTED, UNSCORED_CHOSEN, UNSCORED_REJECTED = range(6)
# Each branch with the one whose tokens it stands among: what it sees, and is seen by.
SIDE_OF_BRANCH = np.array([PADDING, PROMPT, CHOSEN, REJECTED, CHOSEN, REJECTED])


class RowArrays(NamedTuple):
    """The derived arrays of one row, each [L] int32, or of B rows, each [B, L]; see the module's drawing."""

    inputs: np.ndarray
    labels: np.ndarray
    branch: np.ndarray
    segment: np.ndarray
    position: np.ndarray
    end: np.ndarray


def sees(query: Any, key: Any, key_end: Any) -> Any:
    """Defines the mask: it tells whether the query at one index of a row sees the key at another.

    The mechanisms of attention call it. Forms that a kernel needs (blocks, segments) are tested against it.

    Arguments are arrays that broadcast, of numpy, of JAX or within a kernel, and so is what it returns.

    Args:
      key_end: `end` at the key.
    """
    return (key <= query) & (query < key_end)


def derive(row: Row) -> RowArrays:
    """Derives the arrays of one row. It is a pure function, used by the loader, the inspector and the tests alike."""
    return RowArrays(*(array[0] for array in derive_rows([row])))


def derive_rows(rows: Sequence[Row]) -> RowArrays:
    """Derives B rows of one length at once, in little more time than one takes: each array is [B, L] int32.

    A row may hold no pair: it is padding alone.
    """
    # The rows lie end to end. Pieces: the three branches of each pair, pair after pair (a prompt of P tokens takes
    # P - 1 positions); what is left of a row is the one piece of a pair of number 0.
    length = len(rows[0].tokens)
    number = np.concatenate([[*range(1, len(row) + 1), 0] for row in rows])[:, None]
    piece_lengths = np.concatenate([_piece_lengths(row) for row in rows])
    piece_ends = np.cumsum(piece_lengths).reshape(-1, 3)
    piece_starts = piece_ends - piece_lengths
    is_pair, repeats = number > 0, piece_lengths.ravel()

    def spread(per_piece: np.ndarray) -> np.ndarray:
        return np.repeat(np.broadcast_to(per_piece, piece_lengths.shape).astype(np.int32).ravel(), repeats)

    branch, segment = spread(is_pair * np.array([PROMPT, CHOSEN, REJECTED])), spread(number)
    _mark_unscored(branch, rows, length)
    slots, is_token = np.arange(len(rows) * length, dtype=np.int32), branch > 0
    # A pair's first token is no label, so that each pair's labels lie one further in the stored tokens.
    label_index = slots + segment
    input_index = label_index - 1
    # In the stored tokens the rejected side follows the chosen one; its first input is the last prompt token.
    input_index[piece_starts[is_pair[:, 0], 2]] = (piece_starts[:, 1:2] + number - 1)[is_pair]
    # Both answers go on where the prompt ends.
    first_positions = piece_lengths[:, :1] * np.array([0, 1, 1])
    row_starts = np.repeat(np.arange(len(rows)) * length, [len(row) + 1 for row in rows])[:, None]
    tokens = np.concatenate([row.tokens for row in rows]).astype(np.int32)
    arrays = RowArrays(
        inputs=tokens.take(input_index) * is_token,
        labels=tokens.take(label_index) * is_token,
        branch=branch,
        segment=segment,
        position=(slots - spread(piece_starts - first_positions)) * is_token,
        end=spread((piece_ends[:, [2, 1, 2]] - row_starts) * is_pair),
    )
    return RowArrays(*(array.reshape(len(rows), length) for array in arrays))


def attention_mask(arrays: RowArrays) -> np.ndarray:
    """Returns the mask that the arrays of one row give to attention, [L queries, L keys] bool; it reads `end` alone."""
    index = np.arange(len(arrays.end))
    mask: np.ndarray = sees(index[:, None], index, arrays.end)
    return mask


def mask_in_words(arrays: RowArrays) -> np.ndarray:
    """Returns the mask that segments and branches ask for, [L, L] bool, as `attention_mask` of a row that is right.

    A query sees itself and earlier keys of its own pair whose branch is the prompt's or its own; padding sees nothing.
    """
    segment, branch, index = arrays.segment, SIDE_OF_BRANCH[arrays.branch], np.arange(len(arrays.segment))
    same_pair = (segment == segment[:, None]) & (segment > 0)
    return same_pair & (index <= index[:, None]) & ((branch == PROMPT) | (branch == branch[:, None]))


def _piece_lengths(row: Row) -> np.ndarray:
    """Returns [n + 1, 3] int64: the positions of the branches of each pair; then the row's padding, and twice 0."""
    lengths = np.zeros((len(row) + 1, 3), np.int64)
    lengths[:-1, 0], lengths[:-1, 1], lengths[:-1, 2] = row.prompt_lengths - 1, row.chosen_lengths, row.rejected_lengths
    lengths[-1, 0] = len(row.tokens) - lengths.sum()
    return lengths


def _mark_unscored(branch: np.ndarray, rows: Sequence[Row], length: int) -> None:
    """Changes the branch of the positions whose labels are unscored.

    Args:
      branch: of all rows, end to end.
    """
    for start, row in enumerate(rows):
        if len(row.unscored):
            pairs_before = np.searchsorted(row.ends()[:, 2], row.unscored[:, 0], side="right")
            # A pair's first token is no label, so that the labels of the first pair lie one slot earlier, and so on.
            for first, end in row.unscored - (pairs_before + 1)[:, None] + start * length:
                branch[first:end] += UNSCORED_CHOSEN - CHOSEN
