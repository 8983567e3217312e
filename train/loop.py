"""The whole of a training run on one screen: `train(config)`; what it calls are leaves that can be read alone."""

import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np

from oddsmill.schemas.errors import Refused, RunFailed, Stopped, require
from oddsmill.schemas.settings import settings_as_yaml
from oddsmill.train.checkpoint.best import Best, make_best
from oddsmill.train.checkpoint.checkpoints import Checkpoints
from oddsmill.train.checkpoint.digests import digest
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.data_order import WORDS, DataOrder, row_words, words_for_batch
from oddsmill.train.data.loader import DEVICE_ARRAYS, num_rows, step_pair_ids, train_batches
from oddsmill.train.data.shard_watch import ShardWatch
from oddsmill.train.model.frozen import join_params
from oddsmill.train.model.lora import merge_lora
from oddsmill.train.monitor.alarms import Alarms
from oddsmill.train.monitor.curves import plot_curves
from oddsmill.train.monitor.metrics import Metrics, last_evaluation
from oddsmill.train.monitor.nonfinite import describe_failure, write_dump
from oddsmill.train.monitor.profiling import StepProfile
from oddsmill.train.monitor.samples import Samples
from oddsmill.train.monitor.step_report import StepReport, due
from oddsmill.train.monitor.wandb_sink import import_wandb
from oddsmill.train.parallel.device_errors import told_clearly
from oddsmill.train.parallel.sharding import put_on_mesh, row_share
from oddsmill.train.parallel.signals import StopSignals
from oddsmill.train.parallel.stop_requests import SAVE, Clock, Wishes
from oddsmill.train.setup import Run, prepare
from oddsmill.train.step.evaluation import Evaluation
from oddsmill.train.weights.export import export_adapter, export_model

EXPORT_FOLDER, ADAPTER_FOLDER, CHECKPOINT_FOLDER = "export", "adapter", "checkpoints"
SETTINGS_NAME = "settings.yaml"


def train(config: TrainConfig) -> dict[str, float]:
    """Trains from the rows in `config.data` into `config.run_dir`; goes on from the newest checkpoint there.

    Returns: the last evaluation's metrics, keys `eval/…`, or with `load_best_model_at_end` those of the best; empty
      where there is no eval split.

    Raises:
      Refused: settings, data, model or an earlier run in `run_dir` do not fit each other.
      RunFailed: the loss is not finite any more, a shard changed, a disk or a device is full.
      Stopped: by SIGTERM or Ctrl-C, with a checkpoint.
    """
    best = make_best(config)
    if "wandb" in config.report_to:
        import_wandb()
    run = prepare(config)
    evaluate = make_evaluation(config, run)
    for name in ("eval_steps", "eval_batch_size", "generate_during_eval"):  # all else that needs one needs eval_steps
        value = getattr(config, name)
        require(not value or evaluate is not None, name, value, f"{run.eval_data} has no eval split; leave it out")
    traced = config.profile_steps
    require(traced is None or traced[1] <= run.num_steps, "profile_steps", traced, f"the run has {run.num_steps} steps")
    best.data = run.eval_manifest.sha256
    if run.is_writer:
        print(run.summary)
    with told_clearly(config.run_dir):
        return _train(config, run, evaluate, best)


def _train(config: TrainConfig, run: Run, evaluate: Evaluation | None, best: Best) -> dict[str, float]:
    """`train`, once all is checked: what fails from here on fails on the devices, the disk or the data."""
    run_dir = Path(config.run_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"--run_dir={run_dir}: no folder can be made there ({error.strerror})") from error
    share, order = row_share(run.mesh), DataOrder()
    checkpoints = Checkpoints(
        run_dir / CHECKPOINT_FOLDER, identity=run.identity, save_total_limit=config.save_total_limit
    )
    checkpoints.check_identity()
    if run.is_writer:
        (run_dir / SETTINGS_NAME).write_text(settings_as_yaml(config))
    rows: dict[str, Any] = {
        "rows_per_step": config.rows_per_step, "shuffle": config.shuffle_train_dataset, "seed": config.seed,
        "empty_rows": run.rows_per_epoch - run.manifest.splits["train"].rows,
    }  # fmt: skip
    batches = train_batches(
        config.data, run.manifest, **rows, process_index=share.shard_index, process_count=share.shard_count,
        num_workers=config.dataloader_num_workers,
    )  # fmt: skip
    shards = ShardWatch((config.data, run.manifest), (run.eval_data, run.eval_manifest))
    alarms = Alarms(fine_tuning=config.model.path is not None)
    done, evaluation_due = 0, False  # steps taken: the only count that users see
    params: dict[str, Any] = {}
    frozen: dict[str, Any] = {}
    is_new = checkpoints.latest_step is None
    if is_new or run.has_frozen_weights:
        params, frozen = run.initial_weights()
    frozen_digest = digest(frozen)
    if is_new:
        state = run.initial_state(params)
    else:
        del params  # the checkpoint's take their place
        done, state, notes = checkpoints.restore(
            run.abstract_state,
            batches,
            order,
            pair_ids_of=lambda step: step_pair_ids(config.data, run.manifest, **rows, step=step),
            frozen_digest=frozen_digest,
        )
        forgotten = best.restore(
            notes["best"], saved_steps=checkpoints.steps if config.load_best_model_at_end else None
        )
        alarms.restore(notes["alarms"])
        evaluation_due = notes["evaluation_due"] and evaluate is not None
        skipped = int(state["skipped"])
        require(
            skipped <= config.max_skipped_steps,
            "max_skipped_steps",
            config.max_skipped_steps,
            f"the run has left out {skipped} already, and would end at once",
        )
        is_over = done == run.num_steps or best.patience_is_over
        left = "nothing to do" if is_over else f"{run.num_steps - done} steps to go"
        if run.is_writer:
            print(f"going on from the checkpoint of step {done}: {left}")
            if forgotten:
                print(f"warning: {forgotten}")
    samples = Samples(config, run)
    step_fn = run.jitted_step()
    evaluations: dict[int, dict[str, float]] = {}  # of the newest and of the best step
    with (
        jax.set_mesh(run.mesh),
        checkpoints,
        closing(batches),
        Metrics(
            config, first_step=done, num_steps=run.num_steps, is_writer=run.is_writer, evaluation_due=evaluation_due
        ) as sink,
        StopSignals() as signals,
        StepProfile(config.run_dir, config.profile_steps) as profile,
    ):

        def fail(step: int, values: dict[str, float], batch: dict[str, np.ndarray]) -> RunFailed:
            path = write_dump(config, run, step=step, values=values, batch=batch, params=state["params"], frozen=frozen)
            return RunFailed(describe_failure(path, step=step, values=values))

        def measure() -> bool:
            """Evaluates; returns whether the weights are the best so far."""
            assert evaluate is not None
            with report.paused(), shards.blamed():
                weights = join_params(state["params"], frozen)
                evaluation = evaluate(weights)
            evaluations[done] = evaluation
            is_best = best.add(done, evaluation)
            for step in evaluations.keys() - {best.step, done}:
                del evaluations[step]
            for line in alarms.add_evaluation(done, evaluation):
                sink.say(f"warning: {line}")
            sink.write(done, evaluation)
            if config.generate_during_eval:
                with report.paused():
                    sink.write_samples(done, samples.write(done, weights))
            return is_best

        def save(*, again: bool = False) -> None:
            with report.paused():
                shards.check()  # what is saved was learned from the rows of the manifest
                checkpoints.save(
                    done,
                    state,
                    batches,
                    order,
                    frozen_digest=frozen_digest,
                    notes={"best": best.notes(), "alarms": alarms.notes(), "evaluation_due": evaluation_due},
                    best_step=best.step if config.load_best_model_at_end else None,
                    again=again,
                )
            wishes.saved()

        wishes = Wishes(signals, Clock(config.save_interval_minutes))
        samples.drop_after(done)
        if is_new:
            sink.write_samples(0, samples.write(0, join_params(state["params"], frozen)))
        report = StepReport(config, run, sink, order, alarms, wishes, fail)
        stop = None
        if evaluation_due:
            measure()
            evaluation_due = False
            if done == run.num_steps:  # no later checkpoint will say which evaluation was the best
                save(again=True)
        while done < run.num_steps and not best.patience_is_over and not stop:
            with shards.blamed():
                batch = next(batches)
            profile.before(done + 1)
            arrays = {name: batch[name] for name in DEVICE_ARRAYS} | wishes.arrays(len(batch["inputs"]))
            arrays |= words_for_batch(batch["pair_ids"])
            state, step_metrics = step_fn(state, put_on_mesh(arrays, run.mesh), frozen)
            done += 1
            profile.after(done, step_metrics)
            if WORDS not in step_metrics:  # 0.04 ms where the devices' way takes 0.7
                step_metrics[WORDS] = row_words(batch["pair_ids"]).sum(0, dtype=np.uint32)
            # Metrics are fetched one step late, so that the device never waits for the host.
            report.add(done, step_metrics, batch)
            checkpoints.check()
            wish = wishes.take()
            stop = signal.Signals(wish) if wish > SAVE else None
            last = done == run.num_steps
            # Evaluation comes before the save: a run killed between the two takes both again, and alike. One that is
            # told to stop has only seconds to save in, and evaluates when it goes on.
            evaluation_due = evaluate is not None and (last or due(done, config.eval_steps))
            is_best = False
            if evaluation_due and not stop:
                is_best, evaluation_due = measure(), False
            is_end = last or best.patience_is_over
            if (
                wish
                or due(done, config.save_steps)
                or (is_best and config.load_best_model_at_end)
                or (is_end and config.do_last_save)
            ):
                save()
        report.flush()
        checkpoints.wait()
        batches.close()  # its workers have nothing to do any more
        if stop:
            raise Stopped(f"{stop.name} at step {done}, which is saved; the same command goes on from it", stop)
        exported_step, state = done, {"params": state["params"]}  # the optimizer's state is not needed any more
        if best.patience_is_over and done < run.num_steps:
            sink.say(f"early stopping: {best.without_improvement} evaluations without a better {best.metric}")
        if config.load_best_model_at_end and best.step is not None and best.step != done:
            exported_step = best.step
            sink.say(f"the best evaluation is that of step {best.step}, {best.metric} {best.value:.4f}: it is exported")
            state = {}  # makes room for the best weights
            state["params"] = checkpoints.restore_params(
                best.step, run.abstract_state["params"], frozen_digest=frozen_digest
            )
        sink.write_samples(exported_step, samples.write(exported_step, join_params(state["params"], frozen)))
    # Out of the mesh: what is brought to the host is computed on single devices.
    if config.lora and config.lora.export in ("adapter", "both"):
        params = state["params"]
        export_adapter(run_dir / ADAPTER_FOLDER, params=params, config=config, run=run, step=exported_step)
    if not config.lora or config.lora.export in ("merged", "both"):
        params = merge_lora(state["params"], frozen, config.lora)
        export_model(run_dir / EXPORT_FOLDER, params=params, config=config, run=run, step=exported_step)
    if run.is_writer:
        plot_curves(run_dir)
    # Only the writer's process is sure to see what it has written.
    return evaluations.get(exported_step) or last_evaluation(run_dir, step=exported_step)


def make_evaluation(config: TrainConfig, run: Run) -> Evaluation | None:
    """A function from weights to the metrics of the eval split, under `eval/`; None where there is no such split."""
    if not num_rows(run.eval_manifest, "eval"):
        return None
    batch_size = config.eval_batch_size or config.total_batch_size
    return Evaluation(
        run.objective, data=run.eval_data, manifest=run.eval_manifest, split="eval", batch_size=batch_size
    )
