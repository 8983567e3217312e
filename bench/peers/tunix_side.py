"""Runs Tunix's ORPO: static shapes of the longest prompt and the longest answer, dense attention.

It is given tokens; from text it would make others (a BOS inside each answer, no EOS). Its loss is not ours in any case:
its NLL is the mean over pairs of each answer's own mean, and its odds ratio takes summed log-probabilities.
"""

import json
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import optax
from tunix.models.llama3 import model as llama
from tunix.models.llama3 import params
from tunix.sft import hooks
from tunix.sft.dpo.dpo_trainer import ORPOTrainer, ORPOTrainingConfig, TrainingInput

from bench.peers.job import Job, Meter, padded, read_job


class StepEnds(hooks.TrainingHooks):
    def __init__(self, meter: Meter):
        self.meter = meter

    def on_train_step_end(self, train_ctx, train_step, train_loss):
        self.meter.step_ended(train_loss)

    def on_train_start(self, train_ctx): ...
    def on_train_end(self, train_ctx): ...
    def on_train_step_start(self, train_ctx): ...
    def on_eval_step_start(self, train_ctx): ...
    def on_eval_step_end(self, train_ctx, eval_loss): ...


def batches(job: Job, num_steps: int):
    """Yields batches of the pairs in their order, over and over: prompts padded on the left, answers on the right."""
    pairs, size = job.pairs(), job.pairs_per_step
    for step in range(num_steps):
        chosen = [pairs[(step * size + place) % len(pairs)] for place in range(size)]
        arrays = {}
        for side, length in (("prompt", job.max_prompt_length), ("chosen", job.max_completion_length),
                             ("rejected", job.max_completion_length)):  # fmt: skip
            left = side == "prompt"
            ids = [pair[side] for pair in chosen]
            arrays[f"{side}_ids"] = np.array([padded(row, length, 0, left=left) for row in ids], np.int32)
            arrays[f"{side}_mask"] = np.array([padded([1] * len(row), length, 0, left=left) for row in ids], np.int32)
        yield TrainingInput(**arrays)


def main() -> None:
    job = read_job()
    shape = json.loads((job.path / "model" / "config.json").read_text())
    config = llama.ModelConfig(
        num_layers=shape["num_hidden_layers"],
        vocab_size=shape["vocab_size"],
        embed_dim=shape["hidden_size"],
        hidden_dim=shape["intermediate_size"],
        num_heads=shape["num_attention_heads"],
        head_dim=shape["hidden_size"] // shape["num_attention_heads"],
        num_kv_heads=shape["num_key_value_heads"],
        rope_theta=int(shape.get("rope_theta", 10000)),
        norm_eps=shape.get("rms_norm_eps", 1e-6),
        weight_tying=shape["tie_word_embeddings"],
    )
    meter = Meter(job.warmup_steps, job.steps)
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with mesh:
        model = params.create_model_from_safe_tensors(str(job.path / "model"), config, mesh, dtype=np.dtype(job.dtype))
        trainer = ORPOTrainer(
            model=model,
            ref_model=None,
            optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(job.learning_rate, weight_decay=0.0)),
            training_config=ORPOTrainingConfig(
                algorithm="orpo", lambda_orpo=job.beta, eval_every_n_steps=10**6, max_steps=meter.num_steps
            ),
        )
        trainer.training_hooks = StepEnds(meter)
        trainer.train(batches(job, meter.num_steps))
    meter.report(pairs=job.steps * job.pairs_per_step, packages=("google-tunix", "jax", "flax"))


if __name__ == "__main__":
    main()
