"""Keyed hashes. They alone decide a pair's id, split, shard and rank there, whatever the order of the work."""

import hashlib
import json
from functools import cache, lru_cache
from typing import Any, NamedTuple

from oddsmill.pipeline.config import DatasetSettings
from oddsmill.pipeline.formats.pairs import Pair, PreferencePair
from oddsmill.schemas.drops import Origin
from oddsmill.schemas.manifest import Split

FINGERPRINT_MODULUS = 1 << 128
_FIRST_KEYS = ("role", "content")


class Place(NamedTuple):
    """The shard of a pair, and its rank in the order there."""

    split: Split
    shard: int
    rank: int


def pair_id(pair: Pair) -> int:
    """Hashes the texts to 64 bits: equal texts have equal ids, wherever they come from.

    The order of keys in the objects of messages does not count: Parquet and Arrow have one order for a whole column.
    """
    texts = pair if isinstance(pair, PreferencePair) else map(_in_key_order, pair)
    return int.from_bytes(_hash(*(text.encode() for text in texts), size=8))


def prompt_id(pair: Pair) -> int:
    """Hashes the prompt's text to 64 bits."""
    return int.from_bytes(_hash(_prompt(pair), size=8))


def place(pair: Pair, identity: int, origin: Origin, config: DatasetSettings, num_shards: dict[Split, int]) -> Place:
    """Picks the split by the prompt's text, so that no prompt is in both; shard and rank by the pair's id."""
    if not config.shuffle:
        return Place("train", 0, origin.file << 48 | origin.row)
    draw = int.from_bytes(_hash(_prompt(pair), size=8, seed=config.seed, use=b"split"))
    split: Split = "eval" if draw < int(config.eval_share * (1 << 64)) else "train"
    digest = _hash(identity.to_bytes(8), size=16, seed=config.seed, use=b"place")
    shard = int.from_bytes(digest[:8]) % num_shards[split]
    return Place(split, shard, int.from_bytes(digest[8:]))


def fingerprint(row: bytes) -> int:
    """Hashes a raw row to 128 bits. The sum of these identifies the rows as a multiset, in whatever order and files."""
    return int.from_bytes(_hash(row, size=16, use=b"row"))


def _prompt(pair: Pair) -> bytes:
    return (pair.prompt if isinstance(pair, PreferencePair) else _in_key_order(pair.prompt)).encode()


@lru_cache(maxsize=1024)  # a prompt is hashed three times, and pairs share it
def _in_key_order(text: str) -> str:
    """Returns JSON text of messages, or of variables, with all keys in order: role, content, then by name."""
    value = json.loads(text)
    if isinstance(value, list):
        value = [{key: message[key] for key in _FIRST_KEYS if key in message} | _in_order(message) for message in value]
    return json.dumps(_in_order(value) if isinstance(value, dict) else value, ensure_ascii=False)


def _in_order(value: Any) -> Any:
    """Returns a value of JSON with the keys of its objects by name, at every depth."""
    if isinstance(value, dict):
        return {key: _in_order(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_in_order(part) for part in value]
    return value


def _hash(*texts: bytes, size: int, seed: int = 0, use: bytes = b"id") -> bytes:
    state = _new_state(size, seed, use).copy()
    state.update(b"".join([part for text in texts for part in (len(text).to_bytes(8), text)]))
    return state.digest()


@cache
def _new_state(size: int, seed: int, use: bytes) -> "hashlib.blake2b":
    """Makes a state that each hash copies: a copy costs a third of a new keyed state."""
    return hashlib.blake2b(digest_size=size, key=seed.to_bytes(8), person=use)
