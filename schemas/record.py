"""The row record: the content of one ArrayRecord record, and the invariants that it keeps.

A row of length L holds n >= 1 preference pairs. Stored are only the token ids (prompt, chosen, rejected,
pair after pair, padded to L), the three lengths of each pair, its 64-bit id and its truncation flags, as one
self-describing Arrow IPC stream. Everything the model sees is derived from these in `schemas/layout.py`.

An answer of several turns holds tokens that the model reads but does not write: the user's and the tools' turns, and
the headers of turns. They are unscored: no loss counts them. A row with such tokens stores where they are in one more
column, and is of schema version 2; all other rows are of version 1, as they always were.

Axes: L = row length, n = pairs in the row, m = runs of unscored tokens.
"""

import enum
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa

from oddsmill.schemas.stored.arrow_message import declares_compression
from oddsmill.schemas.stored.record_stream import LISTS, PLAIN_VERSION, UNSCORED_VERSION, declared_columns, fill_record

MAX_ROW_LENGTH = 1 << 24  # slots: a mask of such a row would already take 256 TiB
MAX_TOKEN_ID = (1 << 31) - 2  # ids are stored as int32 at most, and there are one more of them


class Truncated(enum.IntFlag):
    """The sides of a pair that were cut to fit."""

    PROMPT = 1
    CHOSEN = 2
    REJECTED = 4

    def names(self) -> list[str]:
        """Returns the lower-case names of the sides that were cut, in layout order."""
        return [flag.name.lower() for flag in self.__class__ if flag in self and flag.name]


WHOLE = Truncated(0)
# Runs of tokens of an answer, ascending and apart: (first, one after the last), counted from the answer's first token.
Spans = Sequence[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One tokenized preference pair. Each side is a sequence of token ids; every side has at least one.

    Attributes:
      unscored_chosen, unscored_rejected: the tokens of an answer that no loss counts; at least one is left that counts.
    """

    prompt: Sequence[int]
    chosen: Sequence[int]
    rejected: Sequence[int]
    id: int
    truncated: Truncated = WHOLE
    unscored_chosen: Spans = ()
    unscored_rejected: Spans = ()

    def __len__(self) -> int:
        """Counts the slots that the pair takes of a row: its tokens, the prompt counted once."""
        return len(self.prompt) + len(self.chosen) + len(self.rejected)

    def unscored(self, side: str) -> frozenset[int]:
        """Returns which tokens of `prompt` (none), `chosen` or `rejected` are unscored."""
        spans = {"chosen": self.unscored_chosen, "rejected": self.unscored_rejected}.get(side, ())
        return frozenset(index for first, end in spans for index in range(first, end))


NO_SPANS = np.zeros((0, 2), np.int32)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row, as stored.

    Attributes:
      tokens: [L] uint16 or int32; after the last pair's tokens, padding.
      prompt_lengths, chosen_lengths, rejected_lengths: [n] int32, each >= 1.
      pair_ids: [n] uint64.
      truncated: [n] uint8, bits of `Truncated`.
      unscored: [m, 2] int32, the runs of unscored tokens: the slot of the first and the slot after the last, ascending.
    """

    tokens: np.ndarray
    prompt_lengths: np.ndarray
    chosen_lengths: np.ndarray
    rejected_lengths: np.ndarray
    pair_ids: np.ndarray
    truncated: np.ndarray
    unscored: np.ndarray = field(default_factory=lambda: NO_SPANS)

    def __len__(self) -> int:
        return len(self.pair_ids)

    @property
    def num_tokens(self) -> int:
        """The number of token ids that are not padding."""
        return int(self.prompt_lengths.sum() + self.chosen_lengths.sum() + self.rejected_lengths.sum())

    @property
    def schema_version(self) -> int:
        """The version of the record, which is the lowest that can hold the row."""
        return UNSCORED_VERSION if len(self.unscored) else PLAIN_VERSION

    def ends(self) -> np.ndarray:
        """Returns the slots after the last token of each pair's prompt, chosen and rejected, [n, 3] int64."""
        lengths = np.stack([self.prompt_lengths, self.chosen_lengths, self.rejected_lengths], axis=1)
        return np.cumsum(lengths.ravel(), dtype=np.int64).reshape(-1, 3)

    def unscored_tokens(self) -> np.ndarray:
        """Counts the unscored tokens of each pair's prompt (none), chosen and rejected, [n, 3] int64."""
        ends = self.ends().ravel()
        counts = np.zeros(len(ends), np.int64)
        np.add.at(
            counts, np.searchsorted(ends, self.unscored[:, 0], side="right"), np.diff(self.unscored, axis=1)[:, 0]
        )
        return counts.reshape(-1, 3)

    def pairs(self) -> Iterable[Pair]:
        """Yields the pairs of the row, in stored order."""
        start = 0
        for index in range(len(self)):
            lengths = (self.prompt_lengths[index], self.chosen_lengths[index], self.rejected_lengths[index])
            prompt, chosen, rejected = np.split(self.tokens[start : start + sum(lengths)], np.cumsum(lengths)[:2])
            first_chosen, first_rejected = start + lengths[0], start + lengths[0] + lengths[1]
            start += sum(lengths)
            yield Pair(
                prompt=prompt.tolist(),
                chosen=chosen.tolist(),
                rejected=rejected.tolist(),
                id=int(self.pair_ids[index]),
                truncated=Truncated(int(self.truncated[index])),
                unscored_chosen=self._spans_in(first_chosen, first_rejected),
                unscored_rejected=self._spans_in(first_rejected, start),
            )

    def _spans_in(self, first: int, end: int) -> Spans:
        """Returns the unscored runs between two slots, counted from the first of them."""
        spans = self.unscored[(self.unscored[:, 0] >= first) & (self.unscored[:, 0] < end)] - first
        return tuple((start, stop) for start, stop in spans.tolist())


def token_dtype(vocab_size: int) -> np.dtype:
    """Returns the dtype in which ids are stored: uint16 where the vocabulary allows it (half the bytes), else int32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.int32)


def make_row(pairs: Sequence[Pair], *, row_length: int, pad_id: int, vocab_size: int) -> Row:
    """Lays pairs one after another into a row and pads it.

    Raises:
      ValueError: the row breaks an invariant of `check_row`.
    """
    sides = [side for pair in pairs for side in (pair.prompt, pair.chosen, pair.rejected)]
    starts = np.cumsum([0, *map(len, sides)]).tolist()[:-1]
    spans = [runs for pair in pairs for runs in ((), pair.unscored_chosen, pair.unscored_rejected)]
    unscored = [(s + first, s + end) for s, runs in zip(starts, spans, strict=True) for first, end in runs]
    ids = np.concatenate([np.zeros(0, np.int64), *(np.asarray(side, np.int64) for side in sides)])
    if len(ids) > row_length:
        raise ValueError(f"{len(ids)} tokens do not fit a row of {row_length}")
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        raise ValueError(f"token id outside the vocabulary of {vocab_size}: {int(ids.min())}..{int(ids.max())}")
    tokens = np.full(row_length, pad_id, token_dtype(vocab_size))
    tokens[: len(ids)] = ids
    lengths = np.array([len(side) for side in sides], np.int32).reshape(-1, 3)
    row = Row(
        tokens=tokens,
        prompt_lengths=lengths[:, 0],
        chosen_lengths=lengths[:, 1],
        rejected_lengths=lengths[:, 2],
        pair_ids=np.array([pair.id for pair in pairs], np.uint64),
        truncated=np.array([pair.truncated for pair in pairs], np.uint8),
        unscored=np.array(unscored, np.int32).reshape(-1, 2),
    )
    check_row(row, row_length=row_length, vocab_size=vocab_size)
    return row


def check_row(row: Row, *, row_length: int, vocab_size: int, max_pairs: int | None = None) -> None:
    """Checks the invariants of a row; called when a row is written and when it is read.

    Raises:
      ValueError: no pair, a side without a token or without a scored one, lengths that do not fit the row, an id
        outside the vocabulary, or more pairs than `max_pairs` (the manifest's `max_pairs_per_row`).
    """
    if row.tokens.shape != (row_length,):
        raise ValueError(f"the row has {row.tokens.shape[0]} slots, {row_length} are declared")
    if len(row) == 0:
        raise ValueError("the row holds no pair")
    if max_pairs is not None and len(row) > max_pairs:
        raise ValueError(f"the row holds {len(row)} pairs, at most {max_pairs} are declared")
    for name in ("prompt_lengths", "chosen_lengths", "rejected_lengths", "truncated"):
        if len(getattr(row, name)) != len(row):
            raise ValueError(f"{name} has {len(getattr(row, name))} entries for {len(row)} pairs")
    sides = {"prompt": row.prompt_lengths, "chosen": row.chosen_lengths, "rejected": row.rejected_lengths}
    all_lengths = np.concatenate(list(sides.values()))
    if all_lengths.min() < 1:
        side, lengths = next((side, lengths) for side, lengths in sides.items() if lengths.min() < 1)
        index = int(lengths.argmin())
        raise ValueError(f"pair {index}: {side} has {lengths[index]} tokens, at least 1 is needed")
    if all_lengths.sum() > row_length:
        raise ValueError(f"{row.num_tokens} tokens do not fit a row of {row_length}")
    if row.tokens.min() < 0 or row.tokens.max() >= vocab_size:
        raise ValueError(f"token id {row.tokens.max()} is outside the vocabulary of {vocab_size}")
    if len(row.unscored):
        _check_unscored(row)


def _check_unscored(row: Row) -> None:
    ends = row.ends().ravel()
    first, last = row.unscored[:, 0].astype(np.int64), row.unscored[:, 1].astype(np.int64) - 1
    side, last_side = (np.searchsorted(ends, slots, side="right") for slots in (first, last))
    # Two runs of an answer have a scored token between them, so that equal tokens are equal runs.
    nearest = last[:-1] + 1 + (side[1:] == side[:-1])
    is_ascending = first[0] >= 0 and (first <= last).all() and (first[1:] >= nearest).all() and last[-1] < ends[-1]
    if not is_ascending or (side != last_side).any():
        raise ValueError(f"the unscored tokens {row.unscored.tolist()} are not ascending runs, each inside one answer")
    counts, lengths = row.unscored_tokens(), np.diff(ends, prepend=0).reshape(-1, 3)
    if counts[:, 0].any():
        raise ValueError(f"pair {int(counts[:, 0].argmax())}: tokens of the prompt are unscored")
    index, column = np.unravel_index(int((lengths - counts).argmin()), counts.shape)
    if counts[index, column] >= lengths[index, column]:
        raise ValueError(f"pair {index}: {('prompt', 'chosen', 'rejected')[column]} has no scored token, 1 is needed")


def encode_row(row: Row) -> bytes:
    """Encodes a row as its record: an Arrow IPC stream of one batch with one row. Equal rows give equal bytes."""
    lists = [np.ascontiguousarray(getattr(row, name), dtype) for name, dtype in LISTS.items()]
    return fill_record(row.tokens, np.zeros(0, row.tokens.dtype), lists)


def encode_rows(joined: Row, counts: np.ndarray, *, row_length: int, pad_id: int) -> Iterator[bytes]:
    """Yields the record of each of many rows, as `encode_row` makes it, in a third of the time.

    Args:
      joined: the pairs of all rows, as if one row held them without padding.
      counts: [rows], the number of pairs in each row.

    Raises:
      ValueError: the pairs of a row do not fit it.
    """
    pairs = np.append(0, np.cumsum(counts))
    slots = np.append(0, joined.ends()[:, 2])[pairs]
    runs = np.searchsorted(joined.unscored[:, 0], slots)
    if (longest := np.diff(slots).max(initial=0)) > row_length:
        raise ValueError(f"{longest} tokens do not fit a row of {row_length}")
    unscored = joined.unscored - np.repeat(slots[:-1], np.diff(runs))[:, None].astype(np.int32)
    of_pairs = [np.ascontiguousarray(getattr(joined, name), LISTS[name]) for name in list(LISTS)[:-1]]
    padding = np.full(row_length, pad_id, joined.tokens.dtype)
    bounds = zip(*(pairwise(each.tolist()) for each in (pairs, slots, runs)), strict=True)
    for (begin, end), (first, last), (first_run, last_run) in bounds:
        lists = [values[begin:end] for values in of_pairs]
        yield fill_record(joined.tokens[first:last], padding[last - first :], [*lists, unscored[first_run:last_run]])


def decode_row(record: bytes, *, row_length: int) -> Row:
    """Decodes the row of a record without copying: the arrays are read-only views.

    Args:
      row_length: the slots of the rows of its dataset.

    Raises:
      ValueError: not a record of a known schema version, or one of another row length. The bytes say so themselves, so
        a reader never takes other columns for these; and no more memory is taken than the record has.
    """
    # The first of a stream's messages declares the columns: four bytes of mark, four of length, then so many.
    begin = 8 + int.from_bytes(record[4:8], "little")
    try:
        schema, declared_length = declared_columns(record[:begin])
        if declared_length != row_length:
            raise ValueError(f"the row has {declared_length} slots, {row_length} are declared")
        if declares_compression(record, begin):
            raise ValueError("its columns are compressed, which those of a row are not")
        batch = pa.ipc.read_record_batch(pa.py_buffer(record)[begin:], schema)
        batch.validate()  # 0.7 us; without, lengths beyond the buffers are read past their end
    except (pa.ArrowException, OSError, EOFError, struct.error) as error:  # the latter where it is cut short
        raise ValueError(f"not an Arrow IPC stream: {error}") from error
    # `values`: of one row, all there are; `flatten` would copy them.
    arrays = {name: column.values.to_numpy() for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    if "unscored" in arrays:
        if len(arrays["unscored"]) % 2:
            raise ValueError("a run of unscored tokens has no end")
        arrays["unscored"] = arrays["unscored"].reshape(-1, 2)
    return Row(**arrays)
