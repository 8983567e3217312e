"""A session owns what lives as long as one start of a run: its place in the data, checkpoints, sinks and signals."""

import dataclasses
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax

from oddsmill.schemas.console import log
from oddsmill.schemas.errors import RunFailed, Stopped, require
from oddsmill.schemas.manifest import TOKENIZER_FOLDER
from oddsmill.train.checkpoint.checkpoints import Checkpoints
from oddsmill.train.checkpoint.digests import digest
from oddsmill.train.data.data_order import DataOrder
from oddsmill.train.data.loader import DEVICE_ARRAYS, Batch, step_pair_ids, train_batches
from oddsmill.train.data.shard_watch import ShardWatch
from oddsmill.train.model.frozen import join_params
from oddsmill.train.monitor.alarms import Alarms
from oddsmill.train.monitor.metrics import MetricsWriter
from oddsmill.train.monitor.nonfinite import describe_failure, measure_rows_alone, write_dump
from oddsmill.train.monitor.profiling import StepProfile
from oddsmill.train.monitor.samples import Samples
from oddsmill.train.monitor.step_monitor import StepMonitor
from oddsmill.train.monitor.throughput import Throughput, num_elements
from oddsmill.train.parallel.requests import Requests
from oddsmill.train.parallel.sharding import put_on_mesh, row_share
from oddsmill.train.parallel.signals import StopSignals
from oddsmill.train.prepare import Run
from oddsmill.train.run_folder import write_run_folder
from oddsmill.train.run_lock import RunLock
from oddsmill.train.step.step import State


class FinalWeights(NamedTuple):
    """The weights that a run leaves: the trained ones after `step` steps, the frozen ones, and their evaluation.

    The evaluation is empty where the step was not evaluated since this start.
    """

    step: int
    params: dict[str, Any]
    frozen: dict[str, Any]
    evaluation: dict[str, float]


@contextmanager
def open_session(run: Run, lock: RunLock | None = None) -> Iterator["Session"]:
    """Opens a session in the run's folder; at the end all that it holds is closed, after an error too.

    Args:
      lock: that of the folder.

    Raises:
      Refused: the folder holds a run of other settings.
    """
    with ExitStack() as stack:
        yield Session(run, lock or RunLock(), stack)


class Session:
    """One start of a run, from its initial weights or its newest checkpoint.

    Attributes:
      step: optimizer steps taken, which is the only count that users see.
      best: the best evaluation so far.
      order: the digest of all pairs taken.
      frozen: the weights that are no part of the state.
      requests, monitor: from `start` on.
    """

    requests: Requests
    monitor: StepMonitor

    def __init__(self, run: Run, lock: RunLock, stack: ExitStack):
        config, share = run.config, row_share(run.program.mesh)
        run.files.folder.mkdir(parents=True, exist_ok=True)
        self.run, self._lock, self._stack = run, lock, stack
        self.step, self.best, self.order = 0, run.best(), DataOrder(share.shard_index)
        self.frozen: dict[str, Any] = {}
        self.checkpoints = stack.enter_context(
            Checkpoints(run.files.checkpoints, identity=run.identity, save_total_limit=config.save_total_limit)
        )
        self.checkpoints.check_identity()
        write_run_folder(run)
        self._row_order: dict[str, Any] = {
            "rows_per_step": config.rows_per_step,
            "shuffle": config.shuffle_train_dataset,
            "seed": config.seed,
            "empty_rows": run.rows_per_epoch - run.data.num_rows("train"),
        }
        self._batches = stack.enter_context(
            closing(
                train_batches(
                    run.data.folder,
                    run.data.manifest,
                    **self._row_order,
                    process_index=share.shard_index,
                    process_count=share.shard_count,
                    num_workers=config.dataloader_num_workers,
                )
            )
        )
        self._shards = ShardWatch(run.data, run.eval_data, verified=run.verified_shards)
        self._evaluation = run.evaluation()
        self._evaluations: dict[int, dict[str, float]] = {}  # of the newest and of the best step
        self._alarms = Alarms(run.program.objective.preference, fine_tuning=config.model.path is not None)
        self._samples = Samples(
            run.files.samples,
            run.eval_data,
            num_prompts=config.generation_num_prompts,
            tokenizer=Path(run.data.folder) / TOKENIZER_FOLDER,  # that of the run folder is written by one process
            generator=run.program.generator,
            decoder_config=run.model.decoder_config,
            sampling=config.sampling,
        )
        self._newest_params: Any = None

    @property
    def is_over(self) -> bool:
        return self.step == self.run.program.num_steps or self.best.patience_is_over

    @property
    def has_evaluation(self) -> bool:
        return self._evaluation is not None

    @property
    def is_best(self) -> bool:
        """The best evaluation so far is that of this step."""
        return self.best.step == self.step

    def start(self) -> State:
        """Returns the state of step 0 or of the newest checkpoint, and opens what reports from there on.

        An evaluation that the checkpoint says is due comes first.

        Raises:
          Refused: no checkpoint can be gone on from.
        """
        is_new = self.checkpoints.latest_step is None
        params: dict[str, Any] = {}
        if is_new or self.run.program.has_frozen_weights:
            params, self.frozen = self.run.initial_weights()
        self._frozen_digest = digest(self.frozen)
        evaluation_due = False
        if is_new:
            state = self.run.program.initial_state(params)
        else:
            del params  # the checkpoint's take their place
            state, evaluation_due = self._restored()
        self._open_sinks(evaluation_due)
        self._samples.drop_after(self.step)
        if is_new:
            self._write_samples(self.step, state["params"])
        if evaluation_due:
            self.evaluate(state)
            if self.step == self.run.program.num_steps:  # no later checkpoint will say which evaluation was the best
                self.save(state, again=True)
        return state

    def _restored(self) -> tuple[State, bool]:
        """Returns the state of the newest checkpoint, and whether the evaluation of its step is still due."""
        config = self.run.config
        self.step, state, notes = self.checkpoints.restore(
            self.run.program.abstract_state,
            self._batches,
            self.order,
            pair_ids_of=lambda step: step_pair_ids(
                self.run.data.folder, self.run.data.manifest, **self._row_order, step=step
            ),
            frozen_digest=self._frozen_digest,
        )
        saved_steps = self.checkpoints.steps if config.load_best_model_at_end else None
        forgotten = self.best.restore(notes["best"], saved_steps=saved_steps)
        self._alarms.restore(notes["alarms"])
        skipped = int(state["skipped"])
        problem = f"the run has left out {skipped} already, and would end at once"
        require(skipped <= config.max_skipped_steps, "max_skipped_steps", config.max_skipped_steps, problem)
        left = "nothing to do" if self.is_over else f"{self.run.program.num_steps - self.step} steps to go"
        log.info(f"going on from the checkpoint of step {self.step}: {left}")
        if forgotten:
            log.warning(forgotten)
        if config.profile_steps and config.profile_steps[1] <= self.step:
            log.warning(f"--profile_steps={config.profile_steps}: these steps are taken already; nothing is traced")
        return state, notes["evaluation_due"] and self.has_evaluation

    def _open_sinks(self, evaluation_due: bool) -> None:
        run, config, program = self.run, self.run.config, self.run.program
        self._stack.enter_context(jax.set_mesh(program.mesh))
        self._writer = self._stack.enter_context(
            MetricsWriter(
                run.files,
                report_to=config.report_to,
                settings=dataclasses.asdict(config),
                headline=program.objective.preference.headline,
                first_step=self.step,
                num_steps=program.num_steps,
                evaluation_due=evaluation_due,
            )
        )
        signals = self._stack.enter_context(StopSignals())
        self._profile = self._stack.enter_context(StepProfile(run.files.profile, config.profile_steps))
        self.requests = Requests(signals, config.save_interval_minutes)
        self.monitor = StepMonitor(
            self._writer,
            self._alarms,
            Throughput(
                run.model.decoder_config,
                nll_scope=program.objective.preference.nll_scope,
                rows_per_step=config.rows_per_step,
                num_trained=num_elements(program.abstract_state["params"]),
            ),
            self.order,
            learning_rate=program.learning_rate,
            rows_per_step=config.rows_per_step,
            rows_per_epoch=run.rows_per_epoch,
            logging_steps=config.logging_steps,
            num_steps=program.num_steps,
            max_skipped_steps=config.max_skipped_steps,
            nonfinite_error=self._nonfinite_error,
        )

    def next_batch(self) -> dict[str, jax.Array]:
        """Takes the next batch: [B, L] int32 arrays on the mesh.

        Raises:
          RunFailed: a shard has changed, or a row cannot be read.
        """
        with self._shards.explain_errors():
            self._batch = next(self._batches)
        self._profile.before(self.step + 1)
        return put_on_mesh({name: self._batch[name] for name in DEVICE_ARRAYS}, self.run.program.mesh)

    def count_step(self, state: State, metrics: Mapping[str, jax.Array]) -> None:
        """Counts the step that was taken with the newest batch, and reports the one before.

        Metrics are read one step late, so that the device never waits for the host.

        Raises:
          RunFailed: the step before is not finite and may not be skipped, or a save under way cannot be written.
        """
        self.step += 1
        self.order.add(self.step, self._batch["pair_ids"])
        self._newest_params = state["params"]
        self._profile.after(self.step, metrics)
        self.monitor.add(self.step, metrics, self._batch)
        self.checkpoints.check()

    @contextmanager
    def _between_steps(self) -> Iterator[None]:
        """Reports all steps taken so far, then keeps the time inside out of the rates."""
        self.order.gather()
        with self.monitor.paused():
            yield

    def evaluate(self, state: State) -> None:
        """Measures the eval split, and answers the prompts where that is asked for."""
        assert self._evaluation is not None
        with self._between_steps(), self._shards.explain_errors():
            evaluation = self._evaluation(join_params(state["params"], self.frozen))
        self._evaluations[self.step] = evaluation
        self.best.add(self.step, evaluation)
        for step in self._evaluations.keys() - {self.best.step, self.step}:
            del self._evaluations[step]
        for line in self._alarms.add_evaluation(self.step, evaluation):
            log.warning(line)
        self._writer.write(self.step, evaluation)
        if self.run.config.generate_during_eval:
            with self._between_steps():
                self._write_samples(self.step, state["params"])

    def save(self, state: State, *, evaluation_due: bool = False, again: bool = False) -> None:
        """Begins a checkpoint of this step.

        All steps are reported first: one that is not finite ends the run before it is saved, and the alarms that are
        saved have seen every step.

        Args:
          evaluation_due: the evaluation of this step is left to the next start.
          again: replaces a checkpoint of this step.

        Raises:
          RunFailed: a shard or the run's owner has changed, a step is not finite, or it cannot be written.
        """
        self._lock.check()
        with self._between_steps():
            self._shards.check()  # what is saved was learned from the rows of the manifest
            self.checkpoints.save(
                self.step,
                state,
                self._batches,
                self.order,
                frozen_digest=self._frozen_digest,
                notes={"best": self.best.notes(), "alarms": self._alarms.notes(), "evaluation_due": evaluation_due},
                best_step=self.best.step if self.run.config.load_best_model_at_end else None,
                again=again,
            )
        self.requests.saved(self.step)

    def stopped(self, number: signal.Signals) -> Stopped:
        """Returns the error that ends a run that a signal has stopped, when its checkpoint is written."""
        self.checkpoints.wait()
        return Stopped(f"{number.name} at step {self.step}, which is saved; the same command goes on from it", number)

    def finish(self, state: State) -> FinalWeights:
        """Returns the weights that the run leaves, the last or the best ones, and generates sample answers with them.

        Args:
          state: is emptied: the devices may have room for one set of weights alone.
        """
        with self._between_steps():
            self.checkpoints.wait()
        self._lock.check()  # the export follows
        if self.checkpoints.latest_step == self.step and (number := self.requests.last_stop()):
            raise self.stopped(number)
        self._batches.close()  # its workers have nothing to do any more
        step, params, best = self.step, state["params"], self.best
        state.clear()
        self._newest_params = None
        if best.patience_is_over and step < self.run.program.num_steps:
            log.info(f"early stopping: {best.without_improvement} evaluations without a better {best.metric}")
        if self.run.config.load_best_model_at_end and best.step not in (None, step):
            assert best.step is not None
            step = best.step
            log.info(f"the best evaluation is that of step {step}, {best.metric} {best.value:.4f}: it is exported")
            del params  # makes room for the best weights
            params = self.checkpoints.restore_params(
                step, self.run.program.abstract_state["params"], frozen_digest=self._frozen_digest
            )
        self._write_samples(step, params)
        return FinalWeights(step, params, self.frozen, self._evaluations.get(step, {}))

    def _write_samples(self, step: int, params: dict[str, Any]) -> None:
        self._writer.write_samples(step, self._samples.write(step, join_params(params, self.frozen)))

    def _nonfinite_error(self, step: int, values: Mapping[str, float], batch: Batch) -> RunFailed:
        """Writes the dump of a step; the guard has kept the weights at which it was taken."""
        config, alone = self.run.config, None
        processes = jax.process_count()
        if processes == 1:
            weights = (self._newest_params, self.frozen)
            alone = measure_rows_alone(
                self.run.program.objective, batch, *weights, rows_at_once=config.total_batch_size
            )
        path = self.run.files.nonfinite_dump(step, jax.process_index() if processes > 1 else None)
        write_dump(path, data=self.run.data.folder, step=step, values=values, batch=batch, alone=alone)
        return RunFailed(describe_failure(path, step=step, values=values))
