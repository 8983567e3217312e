"""Checkpoints by Orbax: trained weights, optimizer, step and the position in the data are one unit."""

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import grain
import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from oddsmill.schemas.console import held_back, log
from oddsmill.schemas.errors import Refused, RunFailed
from oddsmill.schemas.settings import defaults_of
from oddsmill.train.checkpoint.digests import digest
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.data_order import DataOrder

State = dict[str, Any]  # of a run (train/step/step.py); here only its `params` have a name


class _NewestAndBest:
    """Orbax's policy for which checkpoints stay: `total`, the newest and the best among them.

    As in transformers the newest and the best both stay, even where `total` is 1.
    """

    def __init__(self, total: int):
        self._total = total
        self.best_step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        best = {self.best_step} & set(steps)
        others = sorted(set(steps) - best, reverse=True)
        kept = best | set(others[: max(self._total - len(best), max(steps) not in best)])
        return [step in kept for step in steps]


class Checkpoints:
    """The checkpoints of one run. Saving goes on beside the training; a name appears when all of it is written.

    Args:
      folder: where they lie.
      identity: what makes this run this run (settings, data, model), as flat JSON. A checkpoint of
        another identity is refused: going on from it would be neither run.
      save_total_limit: how many are kept; None only reads, and touches nothing that a run may be writing.

    Raises:
      Refused: it only reads, and there is no such folder.
    """

    def __init__(self, folder: str | Path, *, identity: dict[str, Any], save_total_limit: int | None):
        self._folder = Path(folder).absolute()
        if save_total_limit is None and not self._folder.is_dir():
            raise self._nothing_saved()
        self._console = ExitStack()
        self._console.enter_context(held_back("absl"))  # the errors that are raised here say what fails
        self._identity = identity
        self._policy = _NewestAndBest(save_total_limit or 0)
        self._checkpointer = ocp.training.Checkpointer(
            self._folder,
            preservation_policy=self._policy if save_total_limit else None,
            cleanup_tmp_directories=save_total_limit is not None,
        )
        self._whole_step = self.latest_step  # the newest that is known to be written
        self._saving: tuple[int, Any] | None = None

    @property
    def steps(self) -> list[int]:
        return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

    @property
    def latest_step(self) -> int | None:
        return max(self.steps, default=None)

    def find_step(self, wanted: int | None, *, best: bool = False) -> int:
        """Returns the step of a checkpoint: the one wanted; else the newest, or with `best` the best evaluation's.

        Raises:
          Refused: there is none.
        """
        steps = self.steps
        if not steps:
            raise self._nothing_saved()
        if wanted is not None and wanted not in steps:
            raise Refused(f"--checkpoint={wanted}: {self._folder} has no such checkpoint; {self._there_are()}")
        if wanted is not None:
            return wanted
        meta = self._newest_meta() if best else {}
        found = meta.get("notes", {}).get("best", {}).get("step")
        return found if found in steps else steps[-1]  # before the first evaluation none is the best

    def _newest_meta(self) -> dict[str, Any]:
        """Returns the JSON beside the newest arrays whose checkpoint is not damaged; empty where there is none."""
        for step in reversed(self.steps):
            try:
                return self._load(step, {"meta": None})["meta"]
            except Exception:  # `restore` goes back to the one before as well, and says so
                continue
        return {}

    def check_identity(self) -> None:
        """Refuses to go on from a checkpoint that other settings made, naming each."""
        saved = self._newest_meta().get("identity")
        if saved is None:
            return
        # A checkpoint that does not name a setting is older than it, and was made with what is its default now.
        defaults = defaults_of(TrainConfig)
        saved = {name: defaults[name] for name in self._identity.keys() & defaults.keys()} | saved
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

    def restore(
        self,
        abstract_state: State,
        batches: grain.DatasetIterator,
        order: DataOrder,
        *,
        pair_ids_of: Callable[[int], np.ndarray],
        frozen_digest: str | None,
    ) -> tuple[int, State, dict[str, Any]]:
        """Returns the newest whole checkpoint: its step, its state laid out as `abstract_state` says, its notes.

        Moves `batches` and `order` to where they were then. Damaged checkpoints are renamed, with a warning.

        Args:
          pair_ids_of: a step -> [rows, N] uint64, the pairs that the loader gives for it now.

        Raises:
          Refused: none is whole, or it was trained beside other frozen weights than those of `frozen_digest`, or
            its last step on other pairs.
          RunFailed: one of several processes cannot read the newest; it alone knows, and the others wait for it.
        """
        problems: dict[int, str] = {}
        for step in reversed(self.steps):
            try:
                loaded = self._load(step, {"meta": None, "state": abstract_state})
                meta = loaded["meta"]
                # Orbax does not notice a flipped bit of an array.
                problem = None if digest(loaded["state"]) == meta["digest"] else "its arrays are not those saved"
            except jax.errors.JaxRuntimeError:
                raise  # no memory left, or a process lost: the files may be whole
            except Exception as error:  # whatever a damaged file makes Orbax and its libraries raise
                problem = _first_line(error)
                if jax.process_count() > 1:
                    raise RunFailed(
                        f"process {jax.process_index()} cannot read the checkpoint of step {step} in {self._folder} "
                        f"({problem}). A run of one process goes back to the one before it; or rename {step} yourself"
                    ) from error
            if problem:
                problems[step] = problem
                loaded = {}  # its arrays make room for the next
                continue
            self._check_frozen(meta, frozen_digest)
            order.set_state(meta["data_order"], step, pair_ids_of(step), where=f"{self._folder}, step {step}")
            self._set_aside(problems, step)
            self._whole_step = step
            batches.set_state(meta["data"])
            return step, loaded["state"], meta["notes"]
        damage = "; ".join(f"step {step}: {problem}" for step, problem in problems.items())
        raise Refused(
            f"{self._folder}: no checkpoint can be read ({damage}). Bring one back from a copy, "
            "or begin anew with another --run_dir"
        )

    def restore_params(self, step: int, abstract_params: Any, *, frozen_digest: str | None) -> Any:
        """Returns the trained weights of a step, laid out as `abstract_params` says.

        Raises:
          Refused: it is damaged or not there, or was trained beside other frozen weights than those of `frozen_digest`.
        """
        if step not in self.steps:
            raise Refused(f"{self._folder} has no checkpoint of step {step}; {self._there_are()}")
        try:
            meta = self._load(step, {"meta": None})["meta"]
            loading = ocp.options.PyTreeOptions.Loading(partial_load=True)
            with ocp.Context(pytree_options=ocp.options.PyTreeOptions(loading=loading)):
                params = self._load(step, {"state": {"params": abstract_params}})["state"]["params"]
            whole = digest(params) == meta["params_digest"]
        except jax.errors.JaxRuntimeError:
            raise  # no memory left, or a process lost: the files may be whole
        except Exception as error:
            raise Refused(
                f"{self._folder / str(step)} is damaged ({_first_line(error)}); {self._there_are()}"
            ) from error
        self._check_frozen(meta, frozen_digest)
        if not whole:
            raise Refused(f"{self._folder / str(step)} is damaged: its weights are not those saved")
        return params

    def save(
        self,
        step: int,
        state: State,
        batches: grain.DatasetIterator,
        order: DataOrder,
        *,
        frozen_digest: str | None,
        notes: dict[str, Any],
        best_step: int | None,
        again: bool = False,
    ) -> None:
        """Starts to save; returns once the device arrays are copied.

        Args:
          notes: JSON that `restore` gives back.
          best_step: the checkpoint that stays beside the newest.
          again: replaces the checkpoint of this step, whose notes have changed; it is left alone where it is the only
            one, since a run killed in between would have none.

        Raises:
          RunFailed: this save, or the one before, cannot be written.
        """
        self._policy.best_step = best_step
        if self.latest_step == step and not (again and len(self.steps) > 1):
            return
        meta = {
            "identity": self._identity,
            "data": batches.get_state(),
            "data_order": order.get_state(),
            "frozen_digest": frozen_digest,
            "digest": digest(state),
            "params_digest": digest(state["params"]),
            "notes": notes,
        }
        self.wait()
        try:
            self._saving = (
                step,
                self._checkpointer.save_checkpointables_async(
                    step, {"state": state, "meta": meta}, force=True, overwrite=again
                ),
            )
        except jax.errors.JaxRuntimeError:
            raise  # a process is lost
        except Exception as error:
            raise self._failed(step, error) from error

    def check(self) -> None:
        """Raises what a save under way has met; costs nothing while it goes well.

        Raises:
          RunFailed: the save that is under way cannot be written.
        """
        self.wait(timeout=0)

    def wait(self, timeout: float | None = None) -> None:
        """Waits for a save that is under way, at most `timeout` seconds.

        Raises:
          RunFailed: it cannot be written.
        """
        if self._saving is None:
            return
        step, response = self._saving
        try:
            response.result(timeout)
        except Exception as error:
            # A save may itself fail with a TimeoutError, of a network disk; it is told at the next unlimited wait.
            if isinstance(error, TimeoutError) and timeout is not None:
                return
            self._saving = None
            raise self._failed(step, error) from error
        self._saving, self._whole_step = None, step

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Waits for a save that is under way; where the run failed already, that failure is the one that is raised."""
        try:
            if jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError):
                return  # another process is lost: a save would wait for it for ever
            try:
                self.wait()
            except RunFailed:
                if error is None:
                    raise
            finally:
                with suppress(Exception):  # raises what `wait` did, once more
                    self._checkpointer.close()
        finally:
            self._console.close()

    def _nothing_saved(self) -> Refused:
        return Refused(f"{self._folder} has no checkpoint: the run has not saved one yet; start it again")

    def _there_are(self) -> str:
        return f"there are those of step {', '.join(map(str, self.steps))}"

    def _load(self, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
        return self._checkpointer.load_checkpointables(step, wanted)

    def _check_frozen(self, meta: dict[str, Any], frozen_digest: str | None) -> None:
        if meta.get("frozen_digest") != frozen_digest:
            raise Refused(
                f"{self._folder} holds a run beside other frozen weights than the model has now; "
                "give that run its --model.path, with the weights it had, or another --run_dir"
            )

    def _set_aside(self, problems: dict[int, str], whole: int) -> None:
        """Renames damaged checkpoints, so that their steps can be saved again, with a warning."""
        for step, problem in problems.items():
            if jax.process_index() == 0:
                aside = self._folder / f"{step}.damaged"
                shutil.rmtree(aside, ignore_errors=True)
                (self._folder / str(step)).rename(aside)
                log.warning(
                    f"the checkpoint of step {step} is damaged ({problem}): it lies in {aside} now, "
                    f"and the run goes on from that of step {whole}"
                )
        if problems:
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("damaged checkpoints are set aside")
            self._checkpointer.reload()

    def _failed(self, step: int, error: Exception) -> RunFailed:
        last = "there is no earlier one" if self._whole_step is None else f"that of step {self._whole_step} is whole"
        return RunFailed(
            f"the checkpoint of step {step} cannot be written to {self._folder} ({_first_line(error)}); {last}. "
            "Where the disk is full, make room; then the same command goes on"
        )


def _first_line(error: BaseException) -> str:
    """Returns the message of the root of an error, short enough for a line."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) <= 200 else text[:200] + " …"
