"""Runs our side: `oddsmill.train.loop.train` itself, metered where it writes the metrics of each step.

    python -m bench.peers.our_side JOB.json             trains and measures
    python -m bench.peers.our_side JOB.json losses      the loss of each batch of the peers, at the starting weights

It reads rows that another process has packed: Apache Beam is not imported here.
"""

import contextlib
import shutil
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.peers.job import Job, Meter, read_job, report
from oddsmill.schemas.layout import derive
from oddsmill.schemas.record import Pair, decode_row, make_row
from oddsmill.train import loop, session
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.loader import step_pair_ids, stored_rows
from oddsmill.train.monitor.mfu import peak_flops, step_flops
from oddsmill.train.prepare import Run, prepare


def settings(job: Job) -> TrainConfig:
    run_dir = job.path / "run"
    shutil.rmtree(run_dir, ignore_errors=True)
    return TrainConfig(
        data=str(job.path / "data"),
        run_dir=str(run_dir),
        model=ModelConfig(path=str(job.path / "model")),
        beta=job.beta,
        learning_rate=job.learning_rate,
        lr_scheduler_type="constant",
        total_batch_size=job.rows_per_step,
        shuffle_train_dataset=False,
        max_steps=job.warmup_steps + job.our_steps,
        param_dtype=job.dtype,  # type: ignore[arg-type]
        compute_dtype=job.dtype,  # type: ignore[arg-type]
        attn_mechanism=job.attn_mechanism,  # type: ignore[arg-type]
        gradient_checkpointing=job.remat,
        save_steps=None,
        do_last_save=False,
        report_to=[],
    )


def measure(job: Job) -> None:
    meter, config = Meter(job.warmup_steps, job.our_steps), settings(job)

    class MeteredMetrics(session.MetricsWriter):  # type: ignore[name-defined,misc]
        def write(self, step: int, values: Any) -> None:
            super().write(step, values)
            meter.step_ended(values["loss"])

    session.MetricsWriter = MeteredMetrics  # type: ignore[attr-defined]
    with contextlib.redirect_stdout(sys.stderr):
        loop.train(config)
    memory = jax.devices()[0].memory_stats() or {}
    run = prepare(config)
    ids = [
        step_pair_ids(
            config.data, run.data.manifest, rows_per_step=config.rows_per_step, shuffle=False, seed=0, step=step
        )
        for step in range(job.warmup_steps + 1, meter.num_steps + 1)
    ]
    meter.report(
        pairs=sum(int(np.count_nonzero(step)) for step in ids),
        packages=("jax", "flax", "optax", "grain"),
        device=jax.devices()[0].device_kind,
        peak_device_bytes=memory.get("peak_bytes_in_use"),
        flops_per_pair=flops_per_pair(config.data, run),
        peak_flops=peak_flops(jax.devices()[0].device_kind),
    )


def flops_per_pair(data: str, run: Run) -> float:
    """Returns the FLOPs that the model needs for a pair, its prompt counted once, by train/monitor/mfu.py."""
    rows = stored_rows(data, run.data.manifest, "train")
    flops, pairs = 0.0, 0
    for index in range(len(rows)):
        row = decode_row(rows[index], row_length=run.data.manifest.row_length)
        arrays = derive(row)
        flops += step_flops(
            run.model.decoder_config, arrays.position[None], arrays.branch[None], trained_share=1.0, nll_scope="full"
        )
        pairs += len(row)
    return flops / pairs


def losses(job: Job) -> list[float]:
    """The loss of each of the peers' batches, one pair a row, in order."""
    run = prepare(settings(job))
    params, _ = run.initial_weights()
    loss = jax.jit(lambda batch: run.program.objective.loss(params, batch, run.program.objective.totals(batch))[0])
    pairs = [Pair(**ids, id=number + 1) for number, ids in enumerate(job.pairs())]
    values = []
    with jax.set_mesh(run.program.mesh):
        for start in range(0, len(pairs), job.pairs_per_step):
            rows = [one_row(pair, run) for pair in pairs[start : start + job.pairs_per_step]]
            values.append(
                float(loss({name: jnp.stack([getattr(row, name) for row in rows]) for name in rows[0]._fields}))
            )
    return values


def one_row(pair: Pair, run: Run) -> Any:
    manifest = run.data.manifest
    row = make_row([pair], row_length=manifest.row_length, pad_id=0, vocab_size=manifest.tokenizer.vocab_size)
    return derive(row)


if __name__ == "__main__":
    if sys.argv[2:] == ["losses"]:
        with contextlib.redirect_stdout(sys.stderr):
            found = losses(read_job())
        report({"losses": found})
    else:
        measure(read_job())
