"""The whole of a training run on one screen: `train(config)`; what it calls are leaves that can be read alone."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from schemas.errors import Refused, RunFailed
from schemas.settings import settings_as_yaml
from train.checkpoint import Checkpoints
from train.config import TrainConfig
from train.curves import plot_curves
from train.data import DEVICE_ARRAYS, eval_batches, fill_up, train_batches
from train.export import export_adapter, export_model
from train.frozen import digest, join_params
from train.lora import merge_lora
from train.loss import metrics
from train.metrics import Metrics, last_evaluation
from train.samples import Samples
from train.setup import Run, prepare
from train.sharding import put_on_mesh
from train.step import eval_step, train_step

EXPORT_FOLDER, ADAPTER_FOLDER, CHECKPOINT_FOLDER = "export", "adapter", "checkpoints"
SETTINGS_NAME = "settings.yaml"


def train(config: TrainConfig) -> dict[str, float]:
    """Trains from the rows in `config.data` into `config.run_dir`; goes on from the newest checkpoint there.

    Returns: the last evaluation's metrics, keys `eval/…`; empty where there is no eval split.

    Raises:
      Refused: settings, data, model or an earlier run in `run_dir` do not fit each other.
      RunFailed: the loss is not finite any more.
    """
    run = prepare(config)
    if run.is_writer:
        print(run.summary)
    run_dir = Path(config.run_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"--run_dir={run_dir}: no folder can be made there ({error.strerror})") from error
    checkpoints = Checkpoints(
        run_dir / CHECKPOINT_FOLDER, identity=run.identity, save_total_limit=config.save_total_limit
    )
    checkpoints.check_identity()
    (run_dir / SETTINGS_NAME).write_text(settings_as_yaml(config))
    batches = train_batches(
        config.data,
        run.manifest,
        rows_per_step=config.rows_per_step,
        shuffle=config.shuffle_train_dataset,
        seed=config.seed,
        empty_rows=fill_up(run.manifest.splits["train"].rows, config),
    )
    first_step = checkpoints.latest_step or 0
    params: dict[str, Any] = {}
    frozen: dict[str, Any] = {}
    if first_step == 0 or run.has_frozen_weights:
        params, frozen = run.initial_weights()
    frozen_digest = digest(frozen)
    if first_step:
        left = "nothing to do" if first_step == run.num_steps else f"{run.num_steps - first_step} steps to go"
        print(f"going on from the checkpoint of step {first_step}: {left}")
        del params  # the checkpoint's take their place
        state = checkpoints.restore(run.abstract_state, batches, frozen_digest=frozen_digest)
    else:
        state = run.initial_state(params)
    samples = Samples(config, run)
    step_fn = jax.jit(
        partial(
            train_step,
            objective=run.objective,
            optimizer=run.optimizer,
            micro_batches=config.gradient_accumulation_steps,
        ),
        donate_argnums=0,
        out_shardings=(run.state_shardings, None),
    )
    evaluate = make_evaluation(config, run)
    with (
        jax.set_mesh(run.mesh),
        Metrics(config, first_step=first_step, num_steps=run.num_steps, is_writer=run.is_writer) as sink,
    ):
        if first_step == 0:
            samples.write(0, join_params(state["params"], frozen))
        report = StepReport(config, run, sink)
        for step in range(first_step, run.num_steps):
            batch = next(batches)
            state, step_metrics = step_fn(state, put_on_mesh({n: batch[n] for n in DEVICE_ARRAYS}, run.mesh), frozen)
            done = step + 1  # steps taken: the only count that users see
            last = done == run.num_steps
            # Metrics are fetched one step late, so that the device never waits for the host.
            report.add(done, step_metrics, batch["pair_ids"])
            # Evaluation comes before the save: a run killed between the two takes both again, and alike.
            if evaluate and (last or due(done, config.eval_steps)):
                report.flush()
                sink.write(done, evaluate(join_params(state["params"], frozen)))
            if (last and config.do_last_save) or due(done, config.save_steps):
                report.flush()
                checkpoints.save(done, state, batches, frozen_digest=frozen_digest)
        report.flush()
        samples.write(run.num_steps, join_params(state["params"], frozen))
        checkpoints.close()
        batches.close()
    # Out of the mesh: what is brought to the host is computed on single devices.
    if config.lora and config.lora.export in ("adapter", "both"):
        params = state["params"]
        export_adapter(run_dir / ADAPTER_FOLDER, params=params, config=config, run=run, step=run.num_steps)
    if not config.lora or config.lora.export in ("merged", "both"):
        params = merge_lora(state["params"], frozen, config.lora)
        export_model(run_dir / EXPORT_FOLDER, params=params, config=config, run=run, step=run.num_steps)
    if run.is_writer:
        plot_curves(run_dir)
    return last_evaluation(run_dir)


def due(done: int, every: int | None) -> bool:
    return every is not None and done % every == 0


def make_evaluation(config: TrainConfig, run: Run) -> Callable[[Any], dict[str, float]] | None:
    """A function from weights to the metrics of the eval split, under `eval/`; None where there is no such split."""
    split = run.eval_manifest.splits.get("eval")
    if split is None or not split.rows:
        return None
    objective = dataclasses.replace(run.objective, max_pairs=split.max_pairs_per_row)
    step_fn = jax.jit(partial(eval_step, objective=objective))

    def evaluate(params: Any) -> dict[str, float]:
        totals = None
        for batch in eval_batches(
            run.eval_data,
            run.eval_manifest,
            split="eval",
            batch_size=config.total_batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        ):
            sums = step_fn(params, put_on_mesh({name: batch[name] for name in DEVICE_ARRAYS}, run.mesh))
            sums = jax.tree.map(float, jax.device_get(sums))
            totals = sums if totals is None else jax.tree.map(float.__add__, totals, sums)
        assert totals is not None  # the split has rows
        return {f"eval/{name}": float(value) for name, value in metrics(*totals, beta=config.beta).items()}

    return evaluate


class StepReport:
    """Holds the metrics of the newest step until the next is under way, checks them, and writes them.

    A non-finite loss stops the run: what follows would be noise, and a checkpoint of it useless.
    """

    def __init__(self, config: TrainConfig, run: Run, sink: Metrics):
        self._config, self._run, self._sink = config, run, sink
        self._pending: tuple[int, Mapping[str, jax.Array], np.ndarray] | None = None
        self._schedule = run.learning_rate
        self._clock = time.monotonic()
        self._tokens = self._pairs = self._slots = 0.0

    def add(self, step: int, values: Mapping[str, jax.Array], pair_ids: np.ndarray) -> None:
        self.flush()
        self._pending = step, values, pair_ids

    def flush(self) -> None:
        if self._pending is None:
            return
        step, device_values, pair_ids = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(device_values).items()}
        if not (math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])):
            ids = " ".join(f"{pair_id:016x}" for pair_id in np.unique(pair_ids[pair_ids > 0]))
            raise RunFailed(
                f"loss {values['loss']}, gradient norm {values['grad_norm']} at step {step}; "
                f"pairs of this step: {ids}. "
                "A lower --learning_rate or --max_grad_norm helps where the data are sound"
            )
        self._tokens += values.pop("num_tokens")
        self._pairs += values.pop("num_pairs")
        self._slots += self._config.rows_per_step * self._run.manifest.row_length
        if step == self._run.num_steps or due(step, self._config.logging_steps):
            seconds = time.monotonic() - self._clock
            values |= {
                "learning_rate": self._schedule(step - 1),
                "epoch": step * self._config.rows_per_step / self._run.rows_per_epoch,
                "tokens_per_second": self._tokens / seconds,
                "pairs_per_second": self._pairs / seconds,
                "padding_share": 1 - self._tokens / self._slots,
            }
            self._sink.write(step, values)
            self._clock = time.monotonic()
            self._tokens = self._pairs = self._slots = 0.0
