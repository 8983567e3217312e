"""Evaluation of a split: the devices return every pair's values, and the host adds them up in float64.

So the metrics do not depend on how rows fall into batches, devices and processes, nor on the padding of the last batch.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from oddsmill.schemas.manifest import Manifest
from oddsmill.train.data.loader import DEVICE_ARRAYS, eval_batches
from oddsmill.train.data.provenance import read_places, source_of_each
from oddsmill.train.loss.pairs import TOKEN_COUNTS, Denominators, PreferenceLoss, metrics
from oddsmill.train.parallel.sharding import put_on_mesh, row_share
from oddsmill.train.step.step import Objective, eval_step

# One entry a pair, in stored order: `pair_ids` uint64, and the columns of `loss.pairs.pair_values` float64.
Pairs = dict[str, np.ndarray]

# Chosen minus rejected tokens, upper ends of the groups; a model that has learned length alone shows here.
LENGTH_DIFFERENCES = (-65, -17, 16, 64)
_LENGTH_GROUPS = ("below_-64", "-64_to_-17", "-16_to_16", "17_to_64", "above_64")
# A dataset of more files has them by chance (parts of one source): a metric each would say nothing.
MOST_SOURCES = 16


class Evaluation:
    """Measures weights on a split.

    Args:
      objective: its `max_pairs` is replaced by the split's.
      batch_size: rows at once over all devices.
    """

    def __init__(self, objective: Objective, *, data: str, manifest: Manifest, split: str, batch_size: int):
        self._data, self._manifest, self._split, self._batch_size = data, manifest, split, batch_size
        self._mesh, self._preference = objective.mesh, objective.preference
        self._places = read_places(data, manifest, split)
        objective = dataclasses.replace(objective, max_pairs=manifest.splits[split].max_pairs_per_row)
        # Every process gets all values: they are few numbers a pair.
        everywhere = NamedSharding(self._mesh, PartitionSpec())
        self._step = jax.jit(partial(eval_step, objective=objective), out_shardings=everywhere)

    def __call__(self, params: Any) -> dict[str, float]:
        """Returns metrics under `eval/`, the same on every process; see `summary`.

        Args:
          params: all weights of the decoder.
        """
        return self.metrics(self.pairs(params))

    def metrics(self, pairs: Pairs) -> dict[str, float]:
        """Returns the metrics of `pairs`, which are those of the whole split, under `eval/`."""
        sources = source_of_each(pairs["pair_ids"].tolist(), self._places)
        return {f"eval/{name}": value for name, value in summary(pairs, self._preference, sources).items()}

    def pairs(self, params: Any) -> Pairs:
        """Returns the values of every pair of the split."""
        share, batches, pending = row_share(self._mesh), [], None
        for batch in eval_batches(
            self._data,
            self._manifest,
            split=self._split,
            batch_size=self._batch_size,
            process_index=share.shard_index,
            process_count=share.shard_count,
        ):
            arrays = {name: batch[name] for name in DEVICE_ARRAYS}
            ids = batch["pair_ids"]  # as two words each: JAX has no 64-bit integers here
            arrays["pair_ids"] = ids.view(np.uint32).reshape(*ids.shape, 2)
            running = self._step(params, put_on_mesh(arrays, self._mesh))
            if pending is not None:  # fetched one batch late, so that the devices do not wait for the host
                batches.append(_pairs_of(jax.device_get(pending)))
            pending = running
        batches.append(_pairs_of(jax.device_get(pending)))
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _pairs_of(batch: dict[str, np.ndarray]) -> Pairs:
    """Returns the slots of a batch that hold a pair, row after row."""
    is_pair = batch["chosen_tokens"] > 0
    ids = np.ascontiguousarray(batch.pop("pair_ids")).view(np.uint64)[..., 0]
    return {"pair_ids": ids[is_pair], **{name: values[is_pair].astype(np.float64) for name, values in batch.items()}}


def summary(pairs: Pairs, loss: PreferenceLoss, sources: Sequence[str]) -> dict[str, float]:
    """Returns the metrics of training over these pairs, and the accuracy of groups of them.

    Args:
      sources: the name of each pair's source, "" where it is not known.

    Returns: the metrics of the loss, under TRL's names; `num_pairs`; `rewards/accuracies/length_difference/…`, by how
      many tokens the chosen answer is longer, and `rewards/accuracies/source/…` where there are several, each beside
      its `num_pairs/…`.
    """
    sums = {name: _total(values) for name, values in pairs.items() if name not in ("pair_ids", *TOKEN_COUNTS)}
    count = _total(np.ones(len(pairs["nll"])))
    totals = Denominators(nll_tokens=_total(pairs["nll_tokens"]), pairs=count, reported=count)
    values = {name: float(value) for name, value in metrics(sums, totals, loss).items()}
    values["num_pairs"] = float(count)
    longer = np.searchsorted(LENGTH_DIFFERENCES, pairs["chosen_tokens"] - pairs["rejected_tokens"])
    groups = {f"length_difference/{name}": longer == number for number, name in enumerate(_LENGTH_GROUPS)}
    source_array, names = np.array(sources), sorted(set(sources) - {""})
    if 1 < len(names) <= MOST_SOURCES:
        groups |= {f"source/{name}": source_array == name for name in names}
    for name, members in groups.items():
        if members.any():
            values[f"rewards/accuracies/{name}"] = float(pairs["accurate"][members].mean())
            values[f"num_pairs/{name}"] = float(members.sum())
    return values


def _total(values: np.ndarray) -> Any:
    """Returns the exact sum, rounded once, so that the order of the pairs has no part in it."""
    return np.float64(math.fsum(values) if np.isfinite(values).all() else np.sum(values))
