"""Keyed hashes. They alone decide a pair's id, split, shard and rank there, whatever the order of the work."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from oddsmill.pipeline.config import DatasetSettings
from oddsmill.pipeline.formats.pairs import Pair, PreferencePair, is_plain
from oddsmill.schemas.drops import Origin
from oddsmill.schemas.manifest import Split

ShardKey = tuple[Split, int]  # the split and the number of a shard
FINGERPRINT_MODULUS = 1 << 128
_FIRST_KEYS = ("role", "content")


class Places(NamedTuple):
    """The ids of n pairs, and the place of each: its split, its shard there, and its rank in the order of the shard.

    Attributes:
      ids, prompt_ids: [n] uint64.
      is_eval: [n] bool; True in the eval split.
      shards: [n] int64, the number of the shard in its split.
      ranks: [n] uint64.
    """

    ids: np.ndarray
    prompt_ids: np.ndarray
    is_eval: np.ndarray
    shards: np.ndarray
    ranks: np.ndarray

    def shard(self, index: int) -> ShardKey:
        """Returns the split of a pair, and its shard there."""
        return "eval" if self.is_eval[index] else "train", int(self.shards[index])


def place_pairs(
    pairs: Sequence[Pair], origins: Sequence[Origin], config: DatasetSettings, num_shards: Mapping[Split, int]
) -> Places:
    """Picks the split by the prompt's text, so that no prompt is in both; shard and rank by the pair's id.

    Args:
      origins: of the row of each pair.
    """
    texts = [_texts(pair) for pair in pairs]
    ids = [_ids(*of_pair) for of_pair in texts]
    pair_ids, prompt_ids = _numbers([both[0] for both in ids]), _numbers([both[1] for both in ids])
    if not config.shuffle:
        ranks = np.array([origin.file << 48 | origin.row for origin in origins], np.uint64)
        return Places(pair_ids, prompt_ids, np.zeros(len(pairs), bool), np.zeros(len(pairs), np.int64), ranks)
    is_eval = _draw_eval([prompt for prompt, *_ in texts], config)
    digests = [_digest(_sized(identity), size=16, seed=config.seed, use=b"place") for identity, _ in ids]
    drawn, ranks = _numbers(digests).reshape(-1, 2).T
    counts = np.where(is_eval, num_shards.get("eval", 1), num_shards.get("train", 1)).astype(np.uint64)
    return Places(pair_ids, prompt_ids, is_eval, (drawn % counts).astype(np.int64), ranks)


def _draw_eval(prompts: Sequence[bytes], config: DatasetSettings) -> np.ndarray:
    """Draws which prompts, as `_sized` returns them, are in the eval split, [n] bool."""
    if config.eval_share in (0, 1):
        return np.full(len(prompts), config.eval_share == 1)
    draws = _numbers([_digest(prompt, size=8, seed=config.seed, use=b"split") for prompt in prompts])
    return draws < np.uint64(int(config.eval_share * (1 << 64)))


def pair_id(pair: Pair) -> int:
    """Hashes the texts to 64 bits: equal texts have equal ids, wherever they come from.

    The order of keys in the objects of messages does not count: Parquet and Arrow have one order for a whole column.
    """
    return int.from_bytes(_ids(*_texts(pair))[0])


def prompt_id(pair: Pair) -> int:
    """Hashes the prompt's text to 64 bits."""
    return int.from_bytes(_ids(*_texts(pair))[1])


def fingerprint(row: bytes) -> int:
    """Hashes a raw row to 128 bits. The sum of these identifies the rows as a multiset, in whatever order and files."""
    return int.from_bytes(_digest(_sized(row), size=16, use=b"row"))


def _texts(pair: Pair) -> list[bytes]:
    """Returns the texts that a pair is hashed by, the prompt's first, each as `_sized` returns it."""
    is_in_order = isinstance(pair, PreferencePair) or pair.is_plain
    return [_sized(text.encode()) for text in (pair if is_in_order else map(_in_key_order, pair))]


def _ids(prompt: bytes, *others: bytes) -> tuple[bytes, bytes]:
    """Hashes the texts of a pair, and the prompt alone: they begin with it, so it is hashed once."""
    state = _new_state(8, 0, b"id").copy()
    state.update(prompt)
    of_prompt = state.digest()
    state.update(b"".join(others))
    return state.digest(), of_prompt


@lru_cache(maxsize=1024)  # pairs share prompts and variables
def _in_key_order(text: str) -> str:
    """Returns JSON text of messages, or of variables, with all keys in order: role, content, then by name."""
    value = json.loads(text)
    if isinstance(value, list) and all(map(is_plain, value)):
        return text
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


def _sized(text: bytes) -> bytes:
    """Returns a text behind its length, so that several in a row are hashed with where they part."""
    return len(text).to_bytes(8) + text


def _digest(sized: bytes, *, size: int, seed: int = 0, use: bytes) -> bytes:
    state = _new_state(size, seed, use).copy()
    state.update(sized)
    return state.digest()


def _numbers(digests: Iterable[bytes]) -> np.ndarray:
    """Returns the numbers of eight bytes each that digests consist of, [n] uint64."""
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


@cache
def _new_state(size: int, seed: int, use: bytes) -> "hashlib.blake2b":
    """Makes a state that each hash copies: a copy costs a third of a new keyed state."""
    return hashlib.blake2b(digest_size=size, key=seed.to_bytes(8), person=use)
