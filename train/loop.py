"""The whole of a training run on one screen: `train(config)`; what it calls are leaves that can be read alone."""

import math
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from schemas.errors import RunFailed
from schemas.settings import settings_as_yaml
from train.checkpoint import Checkpoints
from train.config import TrainConfig
from train.curves import plot_curves
from train.data import DEVICE_ARRAYS, num_rows, step_pair_ids, train_batches
from train.data_order import DataOrder, step_words
from train.evaluation import Evaluation
from train.export import export_model
from train.frozen import digest, join_params
from train.lora import merge_lora, save_adapter
from train.metrics import Metrics, last_evaluation
from train.samples import Samples
from train.setup import Run, prepare
from train.sharding import put_on_mesh, row_share
from train.step import train_step

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
    run_dir = Path(config.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    share, order = row_share(run.mesh), DataOrder()
    checkpoints = Checkpoints(
        run_dir / CHECKPOINT_FOLDER, identity=run.identity, save_total_limit=config.save_total_limit
    )
    checkpoints.check_identity()
    if run.is_writer:
        (run_dir / SETTINGS_NAME).write_text(settings_as_yaml(config))
    rows: dict[str, Any] = {
        "rows_per_step": config.rows_per_step, "shuffle": config.shuffle_train_dataset, "seed": config.seed
    }  # fmt: skip
    batches = train_batches(
        config.data, run.manifest, **rows, process_index=share.shard_index, process_count=share.shard_count
    )
    first_step = checkpoints.latest_step or 0
    params: dict[str, Any] = {}
    frozen: dict[str, Any] = {}
    if first_step == 0 or run.has_frozen_weights:
        params, frozen = run.initial_weights()
    frozen_digest = digest(frozen)
    if first_step:
        left = "nothing to do" if first_step == run.num_steps else f"{run.num_steps - first_step} steps to go"
        if run.is_writer:
            print(f"going on from the checkpoint of step {first_step}: {left}")
        del params  # the checkpoint's take their place
        state = checkpoints.restore(
            run.abstract_state,
            batches,
            order,
            pair_ids_of=lambda step: step_pair_ids(config.data, run.manifest, **rows, step=step),
            frozen_digest=frozen_digest,
        )
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
    evaluation: dict[str, float] = {}
    with (
        jax.set_mesh(run.mesh),
        Metrics(config, first_step=first_step, num_steps=run.num_steps, is_writer=run.is_writer) as sink,
    ):
        if first_step == 0:
            samples.write(0, join_params(state["params"], frozen))
        report = StepReport(config, run, sink, order)
        for step in range(first_step, run.num_steps):
            batch = next(batches)
            state, step_metrics = step_fn(state, put_on_mesh({n: batch[n] for n in DEVICE_ARRAYS}, run.mesh), frozen)
            done = step + 1  # steps taken: the only count that users see
            last = done == run.num_steps
            step_metrics["data_order"] = step_words(batch["pair_ids"], run.mesh)
            # Metrics are fetched one step late, so that the device never waits for the host.
            report.add(done, step_metrics, batch["pair_ids"])
            # Evaluation comes before the save: a run killed between the two takes both again, and alike.
            if evaluate and (last or due(done, config.eval_steps)):
                report.flush()
                evaluation = evaluate(join_params(state["params"], frozen))
                sink.write(done, evaluation)
            if last or due(done, config.save_steps):
                report.flush()
                checkpoints.save(done, state, batches, order, frozen_digest=frozen_digest)
        report.flush()
        samples.write(run.num_steps, join_params(state["params"], frozen))
        checkpoints.close()
        batches.close()
    # Out of the mesh: what is brought to the host is computed on single devices.
    if config.lora and config.lora.export in ("adapter", "both"):
        save_adapter(
            run_dir / ADAPTER_FOLDER,
            state["params"],
            config.lora,
            num_layers=run.decoder_config.num_hidden_layers,
            base_model=config.model,
            is_writer=run.is_writer,
        )
    if not config.lora or config.lora.export in ("merged", "both"):
        params = merge_lora(state["params"], frozen, config.lora)
        export_model(run_dir / EXPORT_FOLDER, params=params, config=config, run=run, step=run.num_steps)
    if run.is_writer:
        plot_curves(run_dir)
    # Only the writer's process is sure to see what it has written.
    return evaluation or last_evaluation(run_dir)


def due(done: int, every: int | None) -> bool:
    return every is not None and done % every == 0


def make_evaluation(config: TrainConfig, run: Run) -> Evaluation | None:
    """A function from weights to the metrics of the eval split, under `eval/`; None where there is no such split."""
    if not num_rows(run.manifest, "eval"):
        return None
    batch_size = config.eval_batch_size or config.total_batch_size
    return Evaluation(run.objective, data=config.data, manifest=run.manifest, split="eval", batch_size=batch_size)


class StepReport:
    """Holds the metrics of the newest step until the next is under way, checks them, and writes them.

    A non-finite loss stops the run: what follows would be noise, and a checkpoint of it useless.
    """

    def __init__(self, config: TrainConfig, run: Run, sink: Metrics, order: DataOrder):
        self._config, self._run, self._sink, self._order = config, run, sink, order
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
        on_host = jax.device_get(dict(device_values))
        self._order.add(on_host.pop("data_order"))
        values: dict[str, Any] = {name: float(value) for name, value in on_host.items()}
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
                "epoch": step * self._config.rows_per_step / self._run.manifest.splits["train"].rows,
                "tokens_per_second": self._tokens / seconds,
                "pairs_per_second": self._pairs / seconds,
                "padding_share": 1 - self._tokens / self._slots,
                "data_order": self._order.digest,
            }
            self._sink.write(step, values)
            self._clock = time.monotonic()
            self._tokens = self._pairs = self._slots = 0.0
