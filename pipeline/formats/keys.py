"""Keyed hashes. They alone decide a pair's id, split, shard and rank there, whatever the order of the work."""

import hashlib
from functools import cache
from typing import NamedTuple

from oddsmill.pipeline.config import DatasetSettings
from oddsmill.pipeline.formats.pairs import Pair
from oddsmill.schemas.drops import Origin
from oddsmill.schemas.manifest import Split

FINGERPRINT_MODULUS = 1 << 128


class Place(NamedTuple):
    """The shard of a pair, and its rank in the order there."""

    split: Split
    shard: int
    rank: int


def pair_id(pair: Pair) -> int:
    """Hashes the texts to 64 bits: equal texts have equal ids, wherever they come from."""
    return int.from_bytes(_hash(*(text.encode() for text in pair), size=8))


def prompt_id(pair: Pair) -> int:
    """Hashes the prompt's text to 64 bits."""
    return int.from_bytes(_hash(pair.prompt.encode(), size=8))


def place(pair: Pair, identity: int, origin: Origin, config: DatasetSettings, num_shards: dict[Split, int]) -> Place:
    """Picks the split by the prompt's text, so that no prompt is in both; shard and rank by the pair's id."""
    if not config.shuffle:
        return Place("train", 0, origin.file << 48 | origin.row)
    draw = int.from_bytes(_hash(pair.prompt.encode(), size=8, seed=config.seed, use=b"split"))
    split: Split = "eval" if draw < int(config.eval_share * (1 << 64)) else "train"
    digest = _hash(identity.to_bytes(8), size=16, seed=config.seed, use=b"place")
    shard = int.from_bytes(digest[:8]) % num_shards[split]
    return Place(split, shard, int.from_bytes(digest[8:]))


def fingerprint(row: bytes) -> int:
    """Hashes a raw row to 128 bits. The sum of these identifies the rows as a multiset, in whatever order and files."""
    return int.from_bytes(_hash(row, size=16, use=b"row"))


def _hash(*texts: bytes, size: int, seed: int = 0, use: bytes = b"id") -> bytes:
    state = _new_state(size, seed, use).copy()
    state.update(b"".join([part for text in texts for part in (len(text).to_bytes(8), text)]))
    return state.digest()


@cache
def _new_state(size: int, seed: int, use: bytes) -> "hashlib.blake2b":
    """Makes a state that each hash copies: a copy costs a third of a new keyed state."""
    return hashlib.blake2b(digest_size=size, key=seed.to_bytes(8), person=use)
