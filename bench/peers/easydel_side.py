"""Runs EasyDeL's ORPOTrainer, which pads all pairs to the static shapes of the longest prompt and the longest answer.

It is given tokens, which it uses as they are; from text it would make others (each part alone, no BOS).
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import easydel as ed
from datasets import Dataset
from jax import numpy as jnp
from transformers import AutoTokenizer

from bench.peers.job import Job, Meter, padded, read_job

IGNORED = -100


def tokenized(job: Job, pad_id: int) -> Dataset:
    """Returns the columns that EasyDeL's own preprocessing would make."""
    rows, length = [], job.max_prompt_length + job.max_completion_length
    for ids in job.pairs():
        prompt = ids["prompt"]
        row = {
            "prompt_input_ids": padded(prompt, job.max_prompt_length, pad_id, left=True),
            "prompt_attention_mask": padded([1] * len(prompt), job.max_prompt_length, 0, left=True),
        }
        for side in ("chosen", "rejected"):
            whole = prompt + ids[side]
            row[f"{side}_input_ids"] = padded(whole, length, pad_id)
            row[f"{side}_attention_mask"] = padded([1] * len(whole), length, 0)
            row[f"{side}_labels"] = padded([IGNORED] * len(prompt) + ids[side], length, IGNORED)
        rows.append(row)
    return Dataset.from_list(rows)


def main() -> None:
    job = read_job()
    meter = Meter(job.warmup_steps, job.steps)
    tokenizer = AutoTokenizer.from_pretrained(job.path / "model")
    dtype = jnp.dtype(job.dtype)
    model = ed.AutoEasyDeLModelForCausalLM.from_pretrained(str(job.path / "model"), dtype=dtype, param_dtype=dtype)

    class MeteredTrainer(ed.ORPOTrainer):
        def on_step_end(self, state, metrics, step):
            meter.step_ended(metrics.loss)
            return super().on_step_end(state, metrics, step)

    config = ed.ORPOConfig(
        save_directory=str(job.path / "easydel"),
        beta=job.beta,
        max_length=job.max_prompt_length + job.max_completion_length,
        max_prompt_length=job.max_prompt_length,
        max_completion_length=job.max_completion_length,
        total_batch_size=job.pairs_per_step,
        learning_rate=job.learning_rate,
        learning_rate_end=job.learning_rate,
        optimizer=ed.EasyDeLOptimizers.ADAMW,
        scheduler=ed.EasyDeLSchedulers.NONE,
        clip_grad=1.0,
        weight_decay=0.0,
        num_train_epochs=1 + job.warmup_steps // job.steps + 1,
        max_training_steps=meter.num_steps,
        shuffle_train_dataset=False,
        do_last_save=False,
        save_optimizer_state=False,
        use_wandb=False,
        report_metrics=False,
        track_memory=False,
        log_grad_norms=False,
        progress_bar_type="json",
    )
    trainer = MeteredTrainer(
        arguments=config, model=model, train_dataset=tokenized(job, tokenizer.pad_token_id), processing_class=tokenizer
    )
    trainer.train()
    meter.report(pairs=job.steps * job.pairs_per_step, packages=("easydel", "jax", "flax"))


if __name__ == "__main__":
    main()
