"""Runs TRL's ORPOTrainer as its documentation shows it: rows of text, padded to the longest of a batch, sdpa.

Rows come in the order of the file, so that the loss of each batch can be compared; gradient checkpointing, on by
TRL's default, is off where memory allows it, which is faster.
"""

import sys

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from bench.peers.job import Job, Meter, read_job
from bench.preference_texts import read_jsonl


class StepEnds(TrainerCallback):
    def __init__(self, meter: Meter):
        self.meter = meter

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.meter.step_ended(logs["loss"])


def different_tokens(rows: Dataset, job: Job) -> int:
    """Returns how many pairs have other tokens than on the other sides."""
    different = 0
    for row, ids in zip(rows, job.pairs(), strict=True):
        same = all(row[f"{side}_input_ids"] == ids["prompt"] + ids[side] for side in ("chosen", "rejected"))
        different += not same
    return different


def main() -> None:
    job = read_job()
    on_gpu = torch.cuda.is_available()
    tokenizer = AutoTokenizer.from_pretrained(job.path / "model")
    model = AutoModelForCausalLM.from_pretrained(
        job.path / "model", dtype=getattr(torch, job.dtype), attn_implementation="sdpa"
    )
    meter = Meter(job.warmup_steps, job.steps)
    config = ORPOConfig(
        output_dir=str(job.path / "trl"),
        beta=job.beta,
        max_length=job.max_length,
        per_device_train_batch_size=job.pairs_per_step // job.micro_batches,
        gradient_accumulation_steps=job.micro_batches,
        learning_rate=job.learning_rate,
        lr_scheduler_type="constant",
        max_steps=meter.num_steps,
        gradient_checkpointing=job.remat,
        bf16=job.dtype == "bfloat16",
        use_cpu=not on_gpu,
        train_sampling_strategy="sequential",
        dataloader_pin_memory=on_gpu,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    rows = Dataset.from_list(read_jsonl(job.path / "rows.jsonl"))
    trainer = ORPOTrainer(model, config, train_dataset=rows, processing_class=tokenizer, callbacks=[StepEnds(meter)])
    trainer.train()
    meter.report(
        pairs=job.steps * job.pairs_per_step,
        packages=("trl", "torch", "transformers"),
        different_tokens=different_tokens(trainer.train_dataset, job),
        peak_device_bytes=torch.cuda.max_memory_allocated() if on_gpu else None,
    )


if __name__ == "__main__":
    sys.exit(main())
