"""Altered records: each is refused, or is a row that keeps all invariants, which the digest of its shard tells."""

import contextlib
import random
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from oddsmill.schemas.layout import derive_rows
from oddsmill.schemas.record import check_row, decode_row, encode_row, make_row
from tests.campaign.harness import Attack, Attempt, Case
from tests.datasets import packed, random_pairs, with_unscored

RECORDS_A_CASE = 100
MOST_BYTES_MORE = 1 << 30  # of memory, in all cases together


def altered(rng: random.Random, record: bytes) -> bytes:
    """Alters bytes, cuts, lengthens, moves parts of a record, or puts large numbers where lengths may stand."""
    content, what = bytearray(record), rng.randrange(8)
    at = rng.randrange(len(content))
    if what <= 2:
        for _ in range(rng.choice((1, 1, 2, 8))):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif what == 3:
        del content[at : at + rng.choice((1, 4, 8, len(content)))]
    elif what == 4:
        content[at:at] = rng.randbytes(rng.choice((1, 4, 8, 64)))
    elif what == 5:
        width = rng.choice((1, 2, 4, 8))
        number = rng.choice((-1, 0, 1, 1 << (8 * width - 2), (1 << (8 * width - 1)) - 1))
        aligned = at - at % width
        content[aligned : aligned + width] = number.to_bytes(width, "little", signed=True)
    elif what == 6:
        start = rng.randrange(len(content))
        content[at : at + 16] = content[start : start + 16]
    else:
        return bytes(pa.Codec(rng.choice(("zstd", "lz4"))).compress(record, asbytes=True))
    return bytes(content)


@contextlib.contextmanager
def prepare(folder: Path) -> Iterator[Attempt]:
    """Takes note of the memory that is in use."""
    before = _most_bytes()

    def attempt(case: Case) -> None:
        rng, numbers = case.rng, np.random.default_rng(case.seed)
        vocab_size, row_length = rng.choice((300, 70_000)), rng.choice((24, 200))
        pairs = random_pairs(numbers, 12, vocab_size=vocab_size)
        if rng.random() < 0.5:
            pairs = [with_unscored(numbers, pair) for pair in pairs]
        rows = packed(pairs, row_length)
        most = max(map(len, rows))
        records = [encode_row(make_row(row, row_length=row_length, pad_id=0, vocab_size=vocab_size)) for row in rows]
        for number in range(RECORDS_A_CASE):
            case.done[:] = [f"record {number} of rows of {row_length} slots, {vocab_size} ids"]
            record = altered(rng, original := rng.choice(records))
            try:
                row = decode_row(record, row_length=row_length)
                check_row(row, row_length=row_length, vocab_size=vocab_size, max_pairs=most)
            except ValueError:
                case.saw("records refused")
                continue
            derive_rows([row])
            again = encode_row(row)
            kept = decode_row(again, row_length=row_length)
            for name, values in vars(row).items():
                case.expect(np.array_equal(values, getattr(kept, name)), f"{name} of a row that is taken is kept")
            case.saw(
                "records that say the same" if again == original else "records of other rows, which digests notice"
            )
            case.expect(record != original or again == original, "equal records are equal rows")
        case.expect(_most_bytes() - before < MOST_BYTES_MORE, "no record takes memory that it does not have")

    yield attempt


def _most_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


ATTACK = Attack(f"{RECORDS_A_CASE} altered records: refused, or rows that keep every invariant", prepare=prepare)
