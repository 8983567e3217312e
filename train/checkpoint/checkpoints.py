"""Checkpoints by Orbax: trained weights, optimizer, step and the position in the data are one unit."""

import gc
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import grain
import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from oddsmill.schemas.console import held_back
from oddsmill.schemas.errors import Refused, RunFailed
from oddsmill.train.checkpoint.damage import closed_loops_held_back, first_line, forget_frames, join_writers, set_aside
from oddsmill.train.checkpoint.digests import digest
from oddsmill.train.checkpoint.meta import check_seal, identity_differences, sealed
from oddsmill.train.checkpoint.retention import NewestAndBest
from oddsmill.train.data.data_order import DataOrder
from oddsmill.train.parallel.agreement import check_same
from oddsmill.train.parallel.failures import ProcessLost, RefusedElsewhere, raise_failure
from oddsmill.train.parallel.processes import gather_bytes

State = dict[str, Any]  # of a run (train/step/step.py); here only its `params` have a name


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
        for library in ("absl", "asyncio"):  # the errors that are raised here say what fails
            self._console.enter_context(held_back(library))
        self._console.enter_context(closed_loops_held_back())
        self._identity = identity
        self._policy = NewestAndBest(save_total_limit or 0)
        self._checkpointer = ocp.training.Checkpointer(
            self._folder,
            preservation_policy=self._policy if save_total_limit else None,
            cleanup_tmp_directories=save_total_limit is not None,
        )
        self._whole_step = self.latest_step  # the newest that is known to be written
        self._saving: tuple[int, Any] | None = None
        self._has_failed = False

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
                return self._read_meta(step)
            except Exception:  # `restore` goes back to the one before as well, and says so
                continue
        return {}

    def check_identity(self) -> None:
        """Refuses to go on from a checkpoint that other settings made, naming each.

        Raises:
          Refused: as said; or another process has other checkpoints in its folder.
        """
        check_same({f"the checkpoints in {self._folder}": self.steps})
        saved = self._newest_meta().get("identity")
        if saved is None:
            return
        differing = identity_differences(saved, self._identity)
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
            unreadable = self._unreadable_meta(step)
            if unreadable:
                problems[step] = unreadable
                continue
            try:
                meta = self._read_meta(step)
                loaded = self._load(step, {"state": abstract_state})
                # Orbax does not notice a flipped bit of an array.
                problem = None if digest(loaded["state"]) == meta["digest"] else "its arrays are not those saved"
            except jax.errors.JaxRuntimeError:
                raise  # no memory left, or a process lost: the files may be whole
            except Exception as error:  # whatever a damaged file makes Orbax and its libraries raise
                problem = first_line(error)
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
            if problems:
                set_aside(self._folder, problems, step)
                self._checkpointer.reload()
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
            meta = self._read_meta(step)
            loading = ocp.options.PyTreeOptions.Loading(partial_load=True)
            with ocp.Context(pytree_options=ocp.options.PyTreeOptions(loading=loading)):
                params = self._load(step, {"state": {"params": abstract_params}})["state"]["params"]
            whole = digest(params) == meta["params_digest"]
        except jax.errors.JaxRuntimeError:
            raise  # no memory left, or a process lost: the files may be whole
        except Exception as error:
            raise Refused(
                f"{self._folder / str(step)} is damaged ({first_line(error)}); {self._there_are()}"
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
        meta = sealed(
            {
                "identity": self._identity,
                "data": batches.get_state(),
                "data_order": order.get_state(),
                "frozen_digest": frozen_digest,
                "digest": digest(state),
                "params_digest": digest(state["params"]),
                "notes": notes,
            }
        )
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
            if jax.process_count() > 1 and isinstance(
                error, jax.errors.JaxRuntimeError | ProcessLost | RefusedElsewhere
            ):
                return  # another process is lost: a save would wait for it for ever
            try:
                self.wait()
            except RunFailed:
                if error is None:
                    raise
            finally:
                with suppress(Exception):  # raises what `wait` did, once more
                    self._checkpointer.close()
                if self._has_failed:
                    join_writers()
                    gc.collect()  # asyncio complains of tasks that failed when they go: here, where nobody hears it
        finally:
            self._console.close()

    def _nothing_saved(self) -> Refused:
        return Refused(f"{self._folder} has no checkpoint: the run has not saved one yet; start it again")

    def _there_are(self) -> str:
        return f"there are those of step {', '.join(map(str, self.steps))}"

    def _read_meta(self, step: int) -> dict[str, Any]:
        own = jax.process_index()  # each reads for itself: one that cannot must not leave others in a barrier of Orbax
        alone = ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})
        with ocp.Context(multiprocessing_options=alone):
            return check_seal(self._load(step, {"meta": None})["meta"])

    def _unreadable_meta(self, step: int) -> str | None:
        """Returns what is wrong with the JSON of a checkpoint in any process; all go back from it together."""
        problem = ""
        try:
            self._read_meta(step)
        except jax.errors.JaxRuntimeError:
            raise
        except Exception as error:  # whatever a damaged file makes Orbax and its libraries raise
            problem = first_line(error)
        return next(filter(None, map(bytes.decode, gather_bytes(problem.encode()))), None)

    def _load(self, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
        return self._checkpointer.load_checkpointables(step, wanted)

    def _check_frozen(self, meta: dict[str, Any], frozen_digest: str | None) -> None:
        if meta.get("frozen_digest") != frozen_digest:
            raise Refused(
                f"{self._folder} holds a run beside other frozen weights than the model has now; "
                "give that run its --model.path, with the weights it had, or another --run_dir"
            )

    def _failed(self, step: int, error: Exception) -> RunFailed:
        raise_failure()  # what another process met is the reason of this error too
        self._has_failed, reason = True, first_line(error)
        forget_frames(error)
        last = "there is no earlier one" if self._whole_step is None else f"that of step {self._whole_step} is whole"
        return RunFailed(
            f"the checkpoint of step {step} cannot be written to {self._folder} ({reason}); {last}. "
            "Where the disk is full, make room; then the same command goes on"
        )
