"""The proof of the data order: one digest of all pairs that a run has taken, step by step.

Of a step it covers which pairs, not their places in the batch: these differ with the number of processes and
have no part in the result. So a run's digest is the same for any number of processes and devices.
"""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from oddsmill.schemas.errors import Refused

WORDS = "data_order"
_START = "0" * 16


def row_words(pair_ids: np.ndarray) -> np.ndarray:
    """[B, N] uint64 ids, 0 where there is no pair -> [B, 2] uint32, to be added up over the rows of a step.

    Ids are mixed first (the finalizer of SplitMix64, Steele et al. 2014), so that different sets have different sums.
    """
    mixed = pair_ids.copy()
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)  # 0 stays 0
    low, high = mixed & np.uint64(0xFFFFFFFF), mixed >> np.uint64(32)
    return np.stack([low.sum(1), high.sum(1)], axis=1).astype(np.uint32)


def words_for_batch(pair_ids: np.ndarray) -> dict[str, np.ndarray]:
    """What goes into the batch of this process, whose rows hold these pairs; nothing where it is alone."""
    return {WORDS: row_words(pair_ids)} if jax.process_count() > 1 else {}


def total_words(words_B2: jax.Array) -> jax.Array:
    """[B, 2] uint32 of the rows of all processes -> [2], the same on each.

    A part of the step: a collective beside it may come first on one process and last on another, and both would wait
    for ever.
    """
    return jax.lax.with_sharding_constraint(jnp.sum(words_B2, 0, dtype=jnp.uint32), PartitionSpec())


class DataOrder:
    """The digest of the pairs of all steps taken, 16 hex digits; `add` takes one step more."""

    def __init__(self) -> None:
        self.digest = self._before = _START

    def add(self, words: np.ndarray) -> None:
        """Args: words: [2] uint32, of the step."""
        self._before, self.digest = self.digest, _chained(self.digest, words)

    def get_state(self) -> dict[str, str]:
        return {"digest": self.digest, "before": self._before}

    def set_state(self, state: dict[str, str], last_step: np.ndarray, *, where: str) -> None:
        """Goes on from a checkpoint, if its last step took the pairs that it would take now.

        Args:
          last_step: [rows, N] uint64, the ids of all pairs of that step, as the loader orders them now.

        Raises:
          Refused: they are others.
        """
        now = _chained(state["before"], row_words(last_step).sum(0, dtype=np.uint32))
        if now != state["digest"]:
            raise Refused(
                f"{where}: its last step took other pairs than the loader gives for it now (data order "
                f"{state['digest']}, now {now}). Go on with the version of grain that the run began with, or give "
                "another --run_dir"
            )
        self.digest, self._before = state["digest"], state["before"]


def _chained(digest: str, words: np.ndarray) -> str:
    return hashlib.blake2b(bytes.fromhex(digest) + words.astype("<u4").tobytes(), digest_size=8).hexdigest()
