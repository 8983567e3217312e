"""What the model sees of a row, derived from what is stored. The only home of the one-row layout.

Of the pair prompt `p0 p1 p2`, chosen `c0 c1 e`, rejected `r0 e`:

    inputs     p0 p1 | p2 c0 c1 | p2 r0     each branch begins with a copy of the last prompt token,
    labels     p1 p2 | c0 c1 e  | r0 e      so every position has exactly one label
    branch      1  1 |  2  2  2 |  3  3     prompt, chosen, rejected (0 = padding)
    segment     1  1    1  1  1    1  1     which pair of the row, from 1 (0 = padding)
    position    0  1    2  3  4    2  3     the rejected side restarts after the prompt
    end         7  7    5  5  5    7  7     mask: key <= query and query < end[key]

The prompt stands once, and the mask makes the row equal to the two sequences prompt+chosen and
prompt+rejected: a query sees earlier keys of its own pair whose branch is the prompt's or its own.
"""

from typing import NamedTuple

import numpy as np

from schemas.record import Row

PADDING, PROMPT, CHOSEN, REJECTED = range(4)


class RowArrays(NamedTuple):
    """The derived arrays of one row, each [L] int32; see the module's drawing."""

    inputs: np.ndarray
    labels: np.ndarray
    branch: np.ndarray
    segment: np.ndarray
    position: np.ndarray
    end: np.ndarray


def derive(row: Row) -> RowArrays:
    """Derives what the model sees. A pure function, used by the loader, the inspector and the tests alike."""
    prompt, chosen, rejected = (
        lengths.astype(np.int64) for lengths in (row.prompt_lengths, row.chosen_lengths, row.rejected_lengths)
    )
    # Pieces: the three branches of each pair, pair after pair. A prompt of P tokens takes P - 1 positions.
    piece_lengths = np.stack([prompt - 1, chosen, rejected], 1)
    piece_ends = np.cumsum(piece_lengths.ravel()).reshape(-1, 3)
    piece_starts = piece_ends - piece_lengths
    token_starts = np.cumsum(prompt + chosen + rejected) - (prompt + chosen + rejected)
    # Index, in the stored tokens, of the first label of each piece.
    first_labels = np.stack([token_starts + 1, token_starts + prompt, token_starts + prompt + chosen], 1)
    first_positions = np.stack([np.zeros_like(prompt), prompt - 1, prompt - 1], 1)
    key_ends = np.stack([piece_ends[:, 2], piece_ends[:, 1], piece_ends[:, 2]], 1)

    length, used = len(row.tokens), int(piece_ends[-1, 2])

    def spread(per_piece: np.ndarray) -> np.ndarray:
        return np.repeat(per_piece.ravel(), piece_lengths.ravel())

    def padded(values: np.ndarray) -> np.ndarray:
        array = np.zeros(length, np.int32)
        array[:used] = values
        return array

    within = np.arange(used) - spread(piece_starts)
    label_index = spread(first_labels) + within
    input_index = label_index - 1
    # In the stored tokens the rejected side follows the chosen one; its first input is the last prompt token.
    input_index[piece_starts[:, 2]] = token_starts + prompt - 1
    pairs = np.arange(1, len(row) + 1)
    return RowArrays(
        inputs=padded(row.tokens[input_index]),
        labels=padded(row.tokens[label_index]),
        branch=padded(spread(np.tile([PROMPT, CHOSEN, REJECTED], len(row)))),
        segment=padded(spread(np.repeat(pairs, 3))),
        position=padded(spread(first_positions) + within),
        end=padded(spread(key_ends)),
    )
