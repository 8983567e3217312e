"""Rates of a run: tokens and pairs a second, padding, and the share of the devices' peak."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np

from oddsmill.train.config.loss import NllScope
from oddsmill.train.model.hf_config import DecoderConfig, num_parameters
from oddsmill.train.monitor.mfu import step_flops, utilisation


class Throughput:
    """Adds up what steps take, from one logged step to the next.

    Args:
      rows_per_step: of all processes.
      num_trained: how many parameters are trained.
    """

    def __init__(self, decoder_config: DecoderConfig, *, nll_scope: NllScope, rows_per_step: int, num_trained: int):
        self._decoder_config, self._nll_scope, self._rows_per_step = decoder_config, nll_scope, rows_per_step
        self._trained_share = num_trained / num_parameters(decoder_config)
        self._restart()

    def _restart(self) -> None:
        self._clock = time.monotonic()
        self._tokens = self._pairs = self._slots = self._flops = 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time inside out of the rates."""
        started = time.monotonic()
        yield
        self._clock += time.monotonic() - started

    def add_step(self, *, num_tokens: float, num_pairs: float, position_BL: np.ndarray, branch_BL: np.ndarray) -> None:
        """Takes in a step.

        Args:
          num_tokens, num_pairs: of all rows of the step.
          position_BL, branch_BL: of the rows that this process holds of it; they stand for the others.
        """
        rows, length = branch_BL.shape
        self._tokens += num_tokens
        self._pairs += num_pairs
        self._slots += self._rows_per_step * length
        flops = step_flops(
            self._decoder_config, position_BL, branch_BL, nll_scope=self._nll_scope, trained_share=self._trained_share
        )
        self._flops += flops * self._rows_per_step / rows

    def rates(self) -> dict[str, float]:
        """Returns the rates since this was last called; `mfu` only where the devices' peak is known."""
        seconds = time.monotonic() - self._clock
        rates = {
            "tokens_per_second": self._tokens / seconds,
            "pairs_per_second": self._pairs / seconds,
            "padding_share": 1 - self._tokens / self._slots,
        }
        mfu = utilisation(self._flops, seconds)
        self._restart()
        return rates if mfu is None else {**rates, "mfu": mfu}


def num_elements(tree: object) -> int:
    """Returns how many numbers the arrays of a tree hold."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
