"""Checkpoints by Orbax: trained weights, optimizer, step and the position in the data are one unit."""

import logging
from pathlib import Path
from typing import Any

import grain
import jax
from orbax.checkpoint import v1 as ocp

from schemas.errors import Refused
from train.config import SETTING_DEFAULTS
from train.step import State


class Checkpoints:
    """The checkpoints of one run, newest kept. Saving goes on beside the training.

    Args:
      folder: where they lie.
      identity: what makes this run this run (settings, data, model), as flat JSON. A checkpoint of
        another identity is refused: going on from it would be neither run.
      save_total_limit: how many are kept.
    """

    def __init__(self, folder: str | Path, *, identity: dict[str, Any], save_total_limit: int):
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._folder = Path(folder).absolute()
        self._identity = identity
        self._checkpointer = ocp.training.Checkpointer(
            self._folder,
            preservation_policy=ocp.training.preservation_policies.LatestN(save_total_limit),
            cleanup_tmp_directories=True,
        )

    @property
    def latest_step(self) -> int | None:
        latest = self._checkpointer.latest
        return latest.step if latest else None

    def find_step(self, wanted: int | None) -> int:
        """The step of a checkpoint: the newest, or the one that is wanted.

        Raises:
          Refused: there is none.
        """
        steps = sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)
        if not steps:
            raise Refused(f"{self._folder} has no checkpoint: the run has not saved one yet; start it again")
        if wanted is not None and wanted not in steps:
            raise Refused(f"--checkpoint={wanted}: {self._folder} has those of step {', '.join(map(str, steps))}")
        return steps[-1] if wanted is None else wanted

    def check_identity(self) -> None:
        """Refuses to go on from a checkpoint that other settings made, naming each."""
        if self.latest_step is None:
            return
        saved = self._checkpointer.load_checkpointables(None, {"meta": None})["meta"]["identity"]
        saved = {name: SETTING_DEFAULTS[name] for name in self._identity.keys() & SETTING_DEFAULTS.keys()} | saved
        differing = [
            f"{name}: {saved.get(name)} -> {self._identity.get(name)}"
            for name in sorted(saved.keys() | self._identity.keys())
            if saved.get(name) != self._identity.get(name)
        ]
        if differing:
            raise Refused(
                f"{self._folder} holds a run of other settings ({'; '.join(differing)}); "
                "give them back their values, or another --run_dir"
            )

    def restore(self, abstract_state: State, batches: grain.DatasetIterator, *, frozen_digest: str | None) -> State:
        """The newest state, laid out as `abstract_state` says; moves `batches` to where it was then.

        Raises:
          Refused: it was trained beside other frozen weights than those of `frozen_digest`.
        """
        loaded = self._checkpointer.load_checkpointables(None, {"state": abstract_state, "meta": None})
        self._check_frozen(loaded["meta"], frozen_digest)
        batches.set_state(loaded["meta"]["data"])
        return loaded["state"]

    def restore_params(self, step: int, abstract_params: Any, *, frozen_digest: str | None) -> Any:
        """The trained weights of a step alone, laid out as `abstract_params` says.

        Raises:
          Refused: they were trained beside other frozen weights than those of `frozen_digest`.
        """
        meta = self._checkpointer.load_checkpointables(step, {"meta": None})["meta"]
        self._check_frozen(meta, frozen_digest)
        loading = ocp.options.PyTreeOptions.Loading(partial_load=True)
        with ocp.Context(pytree_options=ocp.options.PyTreeOptions(loading=loading)):
            loaded = self._checkpointer.load_checkpointables(step, {"state": {"params": abstract_params}})
        return loaded["state"]["params"]

    def _check_frozen(self, meta: dict[str, Any], frozen_digest: str | None) -> None:
        if meta.get("frozen_digest") != frozen_digest:
            raise Refused(
                f"{self._folder} holds a run beside other frozen weights than the model has now; "
                "give that run its --model.path, with the weights it had, or another --run_dir"
            )

    def save(self, step: int, state: State, batches: grain.DatasetIterator, *, frozen_digest: str | None) -> None:
        """Starts to save; returns once the device arrays are copied."""
        if self.latest_step == step:
            return
        meta = {"identity": self._identity, "data": batches.get_state(), "frozen_digest": frozen_digest}
        self._checkpointer.save_checkpointables_async(step, {"state": state, "meta": meta}, force=True)

    def close(self) -> None:
        """Waits for a save that is under way."""
        self._checkpointer.close()


def abstract(state: State, shardings: Any) -> State:
    """Shapes, dtypes and shardings of a state, without its arrays."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state, shardings
    )
