"""A training run on one screen: `train(config)`, and what is due after a step."""

import signal
from typing import NamedTuple

import jax

from oddsmill.schemas.console import log
from oddsmill.schemas.files import check_writable
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.monitor.curves import plot_curves
from oddsmill.train.monitor.metrics import last_evaluation
from oddsmill.train.parallel.device_errors import explain_device_errors
from oddsmill.train.parallel.failures import agreed
from oddsmill.train.parallel.processes import together
from oddsmill.train.parallel.requests import Request
from oddsmill.train.prepare import Run, describe_run, prepare
from oddsmill.train.run_folder import export_run_adapter, export_run_model
from oddsmill.train.run_lock import locked_export, locked_run_folder
from oddsmill.train.session import FinalWeights, open_session


def train(config: TrainConfig) -> dict[str, float]:
    """Trains from the rows in `config.data` into `config.run_dir`; goes on from the newest checkpoint there.

    Returns: the last evaluation's metrics, keys `eval/…`, or with `load_best_model_at_end` those of the best; empty
      where there is no eval split.

    Raises:
      Refused: settings, data, model or an earlier run in `run_dir` do not fit each other.
      RunFailed: more steps than `max_skipped_steps` are not finite, a shard changed, a disk or a device is full.
      Stopped: by SIGTERM or Ctrl-C, with a checkpoint.
    """
    with together(), explain_device_errors(config.run_dir):
        check_writable(config.run_dir, f"--run_dir={config.run_dir}")
        run = prepare(config)  # reads and checks all; nothing is on the devices yet
        for line in describe_run(run).split("\n"):
            log.info(line)
        with locked_run_folder(config.run_dir) as lock:
            with open_session(run, lock) as session:
                state = session.start()  # initial weights, or the newest checkpoint
                step_fn, schedule = run.program.jitted_step(), schedule_of(run, session.has_evaluation)
                while not session.is_over:  # the last step, or patience over: an evaluation may end the run
                    state, metrics = step_fn(state, session.next_batch(), session.frozen)
                    session.count_step(state, metrics)  # reported one step late: the device never waits for the host
                    due = due_after(session.step, schedule, session.requests.poll(session.step))
                    # Evaluation comes before the save: a run killed between the two takes both again, and alike.
                    if due.evaluation:
                        session.evaluate(state)
                    if due.saves(is_best=session.is_best, is_over=session.is_over):
                        session.save(state, evaluation_due=due.later_evaluation)
                    if due.stop:
                        raise agreed(session.stopped(due.stop))
                final = session.finish(state)
            return write_results(run, final)  # outside the mesh context: weights come to the host one device at a time


class Schedule(NamedTuple):
    """The settings that say when a run evaluates and saves; `eval_steps` and `save_steps` None: never in between."""

    num_steps: int
    has_evaluation: bool
    eval_steps: int | None
    save_steps: int | None
    do_last_save: bool
    load_best_model_at_end: bool


def schedule_of(run: Run, has_evaluation: bool) -> Schedule:
    config = run.config
    return Schedule(
        run.program.num_steps,
        has_evaluation,
        config.eval_steps,
        config.save_steps,
        config.do_last_save,
        config.load_best_model_at_end,
    )


class Due(NamedTuple):
    """Evaluation, checkpoint and stop between a step and the next.

    Attributes:
      evaluation: the eval split is measured now.
      later_evaluation: it would have been, but the run stops; the checkpoint keeps it due.
      save: a checkpoint, whatever the evaluation says.
      save_if_best, save_if_over: a checkpoint where the evaluation is the best so far, or ends the run.
      stop: the signal that ends the run after its checkpoint.
    """

    evaluation: bool = False
    later_evaluation: bool = False
    save: bool = False
    save_if_best: bool = False
    save_if_over: bool = False
    stop: signal.Signals | None = None

    def saves(self, *, is_best: bool, is_over: bool) -> bool:
        """Returns whether a checkpoint is due, once the evaluation is done if there is one."""
        is_best = is_best and self.evaluation
        return self.save or (self.save_if_best and is_best) or (self.save_if_over and is_over)


def due_after(step: int, schedule: Schedule, request: Request) -> Due:
    """Returns what is due after a step, counted from 1.

    A run that is told to stop has only seconds to save in: it leaves an evaluation to the next start.
    """
    is_last = step == schedule.num_steps
    evaluation = schedule.has_evaluation and (is_last or _is_multiple(step, schedule.eval_steps))
    return Due(
        evaluation=evaluation and not request.stop,
        later_evaluation=evaluation and bool(request.stop),
        save=request.save or _is_multiple(step, schedule.save_steps),
        save_if_best=schedule.load_best_model_at_end,
        save_if_over=schedule.do_last_save,
        stop=request.stop,
    )


def _is_multiple(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def write_results(run: Run, final: FinalWeights) -> dict[str, float]:
    """Writes the model or its adapters, and the curves. Returns the evaluation of the weights."""
    lora = run.config.lora
    if lora and lora.export in ("adapter", "both"):
        with locked_export(run.files.adapter, what=str(run.files.adapter), command="oddsmill train run"):
            export_run_adapter(run, run.files.adapter, final.params, step=final.step)
    if not lora or lora.export in ("merged", "both"):
        with locked_export(run.files.model, what=str(run.files.model), command="oddsmill train run"):
            export_run_model(run, run.files.model, final.params, final.frozen, step=final.step)
    if jax.process_index() == 0:  # only this one is sure to see what it has written
        plot_curves(run.files.metrics, run.files.curves, run.program.objective.preference)
    return final.evaluation or last_evaluation(run.files.metrics, step=final.step)
