"""The proof of the data order: one digest of all pairs that a run has taken, step by step.

It covers which pairs a step has, not their places in the batch: these differ with the number of processes and have no
part in the result. So a run's digest is the same for any number of processes and devices.
"""

import hashlib

import jax
import numpy as np

from oddsmill.schemas.errors import Refused
from oddsmill.train.parallel.processes import gather_bytes

_START = "0" * 16


def row_words(pair_ids: np.ndarray) -> np.ndarray:
    """Returns two words for each row, [B, 2] uint32, from its pair ids, [B, N] uint64 with 0 where there is no pair.

    Words are added up over the rows of a step. Ids are mixed first (the finalizer of SplitMix64, Steele et al. 2014),
    so that different sets have different sums.
    """
    mixed = pair_ids.copy()
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)  # 0 stays 0
    low, high = mixed & np.uint64(0xFFFFFFFF), mixed >> np.uint64(32)
    return np.stack([low.sum(1), high.sum(1)], axis=1).astype(np.uint32)


def step_words(pair_ids: np.ndarray) -> np.ndarray:
    """Returns the sum of the words of a step's rows, [2] uint32, from their pair ids, [B, N] uint64."""
    return row_words(pair_ids).sum(0, dtype=np.uint32)


class DataOrder:
    """The digest of the pairs of all steps taken, 16 hex digits.

    One process takes its steps into the digest at once. Several keep the words of their own rows on the host, 8 bytes
    a step, until `gather` brings them together.

    Args:
      row_shard: which part of every batch this process reads; processes that read the same part count once.

    Attributes:
      digest: after the steps that are gathered.
    """

    def __init__(self, row_shard: int = 0):
        self.digest = self._before = _START
        self._row_shard = row_shard
        self._step = 0
        self._waiting: list[np.ndarray] = []

    def add(self, step: int, pair_ids: np.ndarray) -> None:
        """Takes in the step after the last one.

        Args:
          pair_ids: [B, N] uint64, of the rows that this process holds of it.
        """
        self._step = step
        self._waiting.append(step_words(pair_ids))
        if jax.process_count() == 1:
            self.gather()

    def gather(self) -> None:
        """Brings the steps of all processes into the digest. All of them must call this after the same step."""
        if not self._waiting:
            return
        words_K2 = np.array(self._waiting, "<u4")
        messages = gather_bytes(self._row_shard.to_bytes(4, "little") + words_K2.tobytes())
        of_shard = {message[:4]: np.frombuffer(message[4:], "<u4") for message in messages}
        total_K2 = np.sum(list(of_shard.values()), 0, dtype=np.uint32).reshape(-1, 2)
        for words in total_K2:
            self._before, self.digest = self.digest, _chained(self.digest, words)
        self._waiting = []

    def after(self, step: int) -> str | None:
        """Returns the digest after the newest gathered step or the one before; None of any other step."""
        newest = self._step - len(self._waiting)
        return {newest: self.digest, newest - 1: self._before}.get(step)

    def get_state(self) -> dict[str, str]:
        """Returns JSON for a checkpoint, whose steps must be gathered."""
        assert not self._waiting
        return {"digest": self.digest, "before": self._before}

    def set_state(self, state: dict[str, str], step: int, last_pair_ids: np.ndarray, *, where: str) -> None:
        """Goes on from a checkpoint, if its last step took the pairs that it would take now.

        Args:
          step: the checkpoint's.
          last_pair_ids: [rows, N] uint64, the ids of all pairs of that step, as the loader orders them now.
          where: the checkpoint's name, for the error message.

        Raises:
          Refused: they are others.
        """
        now = _chained(state["before"], step_words(last_pair_ids))
        if now != state["digest"]:
            raise Refused(
                f"{where}: its last step took other pairs than the loader gives for it now (data order "
                f"{state['digest']}, now {now}). Go on with the version of grain that the run began with, or give "
                "another --run_dir"
            )
        self.digest, self._before, self._step, self._waiting = state["digest"], state["before"], step, []


def _chained(digest: str, words: np.ndarray) -> str:
    return hashlib.blake2b(bytes.fromhex(digest) + words.astype("<u4").tobytes(), digest_size=8).hexdigest()
