"""The settings of a training run. Names are those of EasyDeL's ORPOConfig and of TRL wherever they have one."""

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

from oddsmill.schemas.errors import Refused, require
from oddsmill.schemas.settings import require_choices
from oddsmill.train.config.compute import AttentionMechanism
from oddsmill.train.config.devices import DistributedConfig, MeshConfig
from oddsmill.train.config.loss import NllScope
from oddsmill.train.config.model import LoraConfig, ModelConfig, is_pattern
from oddsmill.train.config.sampling import SamplingConfig

# From a trained model: what the published ORPO runs used (Mistral-ORPO). Random weights need a larger step.
FINE_TUNING_LEARNING_RATE = 5e-6
# Adapters want about ten times the rate of full fine-tuning (Schulman et al. 2025, LoRA Without Regret).
LORA_LEARNING_RATE = 5e-5
FROM_SCRATCH_LEARNING_RATE = 1e-3

# Settings that only some values of another one read.
_READ_BY: dict[str, tuple[str, tuple[str, ...]]] = {
    "adam_beta1": ("optim", ("adamw", "adamw_bf16", "lion")),
    "adam_beta2": ("optim", ("adamw", "adamw_bf16", "lion")),
    "adam_epsilon": ("optim", ("adamw", "adamw_bf16")),
    "learning_rate_end": ("lr_scheduler_type", ("linear", "cosine")),
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Trains on preprocessed rows with the ORPO loss.

    Args:
      data: the folder that `oddsmill pipeline run` wrote.
      run_dir: where checkpoints, metrics and the exported model go. The same command again goes on from there.
      model: which model.
      lora: trains low-rank adapters instead of the model's own weights; null trains these.
      frozen_parameters: weights that are not trained: regular expressions, each found in their Hugging Face names.
      frozen_dtype: what frozen weights (with lora all of the model's own) are kept in. null: what they are stored
        in; with model.config the param_dtype.
      mesh: how devices are arranged.
      distributed: how several processes find each other.
      beta: weight of the odds-ratio term (the paper's lambda).
      nll_scope: tokens of the NLL term: `full` is prompt and chosen answer, `response` the answer alone.
      learning_rate: the peak. null: 5e-6 with model.path, 5e-5 with lora, 1e-3 with model.config.
      learning_rate_end: what the linear or cosine decay ends at.
      lr_scheduler_type: how the learning rate falls after the warmup: linear, cosine, inverse_sqrt (by the square
        root of the steps) or constant, not at all: transformers' constant_with_warmup. The others as there.
      warmup_steps: steps of linear warmup from zero.
      warmup_ratio: the warmup as a share of the run's steps, rounded up, instead of warmup_steps.
      optim: adamw; adamw_bf16, its moments kept in bfloat16, rounded at random; adafactor, with an absolute learning
        rate; lion, which wants a learning rate about a tenth of adamw's; or sgd, without momentum.
      weight_decay: decoupled, times the learning rate; norms and biases are left out.
      adam_beta1: decay of the first moment of adamw; with lion the share of the momentum in a step.
      adam_beta2: decay of the second moment of adamw; with lion of the momentum (its authors have 0.99).
      adam_epsilon: epsilon of adamw, outside the root.
      max_grad_norm: gradients are scaled down to this global norm; null turns it off.
      total_batch_size: rows a micro-batch over all devices; a packed row holds several pairs.
      gradient_accumulation_steps: micro-batches an optimizer step.
      compat: trl takes the steps that TRL takes on one device with per_device_train_batch_size=total_batch_size: the
        loss and each metric are the mean of the micro-batches' own means, and the last step of an epoch holds what is
        left of its rows. null: both means of the loss are over all of a step's tokens and pairs, so that results do
        not depend on how rows fall into micro-batches, and epochs follow each other without a seam.
      num_train_epochs: passes over the rows; max_steps wins over it.
      max_steps: optimizer steps.
      seed: of the initial weights and of the order of rows.
      shuffle_train_dataset: a new permutation of the rows each epoch; false keeps the stored order.
      dataloader_num_workers: processes that read and decode rows ahead, for each process of the run; 0: a thread of its
        own does. A script that trains with some must start below `if __name__ == "__main__":`, for they import it.
      param_dtype: what trained weights and optimizer state are kept in.
      compute_dtype: what matrix products take; reductions are float32.
      disable_dropout: trains without the dropout of the model's config.json; a lora.dropout of its own stays. false:
        that dropout is applied, in training steps alone.
      attn_mechanism: how attention is computed: vanilla holds all scores of a row at once; xla those of a block of 64
        queries and 64 keys, and passes over the blocks that the packing empties; cudnn and pallas are kernels of
        GPUs, splash of TPUs. auto: splash on TPUs and cudnn on GPUs where they can do it, else xla where rows are
        blocks, else vanilla. Results are equal but for rounding. Rows want to be a multiple of 128.
      gradient_checkpointing: what of each layer is computed again in the backward pass: true, all of it, for the least
        memory; dots_saveable all but matrix products; dots_with_no_batch_dims_saveable all but those with weights;
        false nothing. The names are those of jax.checkpoint_policies.
      logging_steps: metrics are written every so many steps.
      eval_data: the preprocessed folder whose eval split is measured; null: that of data.
      eval_batch_size: rows at once in an evaluation, over all devices; null: as total_batch_size.
      eval_steps: the eval split is measured every so many steps, and at the end; null: at the end alone.
      save_steps: a checkpoint every so many steps; null: none between start and end.
      save_interval_minutes: a checkpoint also whenever so much time has passed since the last.
      save_total_limit: checkpoints kept: the newest, and with load_best_model_at_end the best among them.
      do_last_save: a checkpoint at the end too; the model is exported in any case.
      load_best_model_at_end: the weights of the best evaluation are what the run leaves, not the last ones; each
        evaluation that is the best so far is followed by a checkpoint.
      metric_for_best_model: of the evaluations, with or without `eval/`. null: loss.
      greater_is_better: for that metric. null: unless its name ends with loss.
      early_stopping_patience: the run ends after so many evaluations on end without a better one; null: it does not.
      early_stopping_threshold: by how much an evaluation must be better for that.
      max_skipped_steps: so many steps whose loss or gradient is not finite are left out; one more ends the run.
      profile_steps: first and last step of a profiler trace, counted from 1; null: none.
      report_to: sinks beside metrics.jsonl.
      generate_during_eval: the prompts are answered at every evaluation too.
      generation_num_prompts: held-out prompts that are answered before and after the training.
      generation_max_new_tokens: the longest answer then.
      generation_do_sample: draw each token by its probability; false takes the most probable one.
      generation_temperature: logits are divided by it.
      generation_top_k: only the k most probable tokens can be drawn; 0 turns it off.
      generation_top_p: only the fewest tokens that together have this probability can be drawn; 1 turns it off.
      generation_repetition_penalty: tokens that were seen become less probable if it is above 1.
      generation_seed: of the draws.
    """

    data: str
    run_dir: str
    model: ModelConfig
    lora: LoraConfig | None = None
    frozen_parameters: list[str] = field(default_factory=list)
    frozen_dtype: Literal["float32", "bfloat16"] | None = None
    mesh: MeshConfig = field(default_factory=MeshConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    beta: float = 0.1
    nll_scope: NllScope = "full"
    learning_rate: float | None = None
    learning_rate_end: float = 0.0
    lr_scheduler_type: Literal["linear", "cosine", "constant", "inverse_sqrt"] = "linear"
    warmup_steps: int = 0
    warmup_ratio: float = 0.0
    optim: Literal["adamw", "adamw_bf16", "adafactor", "lion", "sgd"] = "adamw"
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float | None = 1.0
    total_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    compat: Literal["trl"] | None = None
    num_train_epochs: float = 3.0
    max_steps: int | None = None
    seed: int = 0
    shuffle_train_dataset: bool = True
    dataloader_num_workers: int = 0
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    disable_dropout: bool = True
    attn_mechanism: AttentionMechanism = "auto"
    gradient_checkpointing: bool | Literal["dots_saveable", "dots_with_no_batch_dims_saveable"] = True
    logging_steps: int = 1
    eval_data: str | None = None
    eval_batch_size: int | None = None
    eval_steps: int | None = None
    save_steps: int | None = 500
    save_interval_minutes: float | None = None
    save_total_limit: int = 2
    do_last_save: bool = True
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None
    greater_is_better: bool | None = None
    early_stopping_patience: int | None = None
    early_stopping_threshold: float = 0.0
    max_skipped_steps: int = 0
    profile_steps: list[int] | None = None
    report_to: list[Literal["tensorboard", "wandb"]] = field(default_factory=lambda: ["tensorboard"])
    generate_during_eval: bool = False
    generation_num_prompts: int = 0
    generation_max_new_tokens: int = 64
    generation_do_sample: bool = False
    generation_temperature: float = SamplingConfig.temperature
    generation_top_k: int = SamplingConfig.top_k
    generation_top_p: float = SamplingConfig.top_p
    generation_repetition_penalty: float = SamplingConfig.repetition_penalty
    generation_seed: int = SamplingConfig.seed

    def __post_init__(self) -> None:
        require_choices(self)
        for name in (
            "total_batch_size", "gradient_accumulation_steps", "max_steps", "logging_steps", "eval_steps",
            "save_steps", "save_total_limit", "num_train_epochs", "max_grad_norm", "learning_rate", "adam_epsilon",
            "generation_max_new_tokens", "save_interval_minutes", "early_stopping_patience", "eval_batch_size",
        ):  # fmt: skip
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "must be positive")
        for name in (
            "beta", "learning_rate_end", "warmup_steps", "weight_decay", "generation_num_prompts",
            "early_stopping_threshold", "max_skipped_steps", "dataloader_num_workers",
        ):  # fmt: skip
            value = getattr(self, name)
            require(value >= 0, name, value, "must not be negative")
        for name in ("adam_beta1", "adam_beta2"):
            value = getattr(self, name)
            require(0 <= value < 1, name, value, "must be in [0, 1)")
        require(0 <= self.seed < 2**32, "seed", self.seed, "must be from 0 to 2**32 - 1")
        require(0 <= self.warmup_ratio < 1, "warmup_ratio", self.warmup_ratio, "must be in [0, 1)")
        require(
            not (self.warmup_ratio and self.warmup_steps),
            "warmup_ratio",
            self.warmup_ratio,
            f"says the same as --warmup_steps={self.warmup_steps}; give one of the two",
        )
        for name, (by, readers) in _READ_BY.items():
            value, chosen = getattr(self, name), getattr(self, by)
            problem = f"has no effect with --{by}={chosen}, only with {' or '.join(readers)}; leave it out"
            require(chosen in readers or value == SETTING_DEFAULTS[name], name, value, problem)
        require(
            self.lora is None or self.model.path is not None,
            "lora.rank",
            self.lora and self.lora.rank,
            "lora adapts trained weights; give --model.path instead of --model.config",
        )
        for pattern in self.frozen_parameters:
            require(is_pattern(pattern), "frozen_parameters", pattern, "not a regular expression")
        require(
            self.lora is None or not self.frozen_parameters,
            "frozen_parameters",
            self.frozen_parameters,
            "with lora all weights of the model are frozen already",
        )
        require(
            self.frozen_dtype is None or self.lora is not None or len(self.frozen_parameters) > 0,
            "frozen_dtype",
            self.frozen_dtype,
            "nothing is frozen; it goes with lora or frozen_parameters",
        )
        require(
            self.max_steps is None or self.warmup_steps < self.max_steps,
            "warmup_steps",
            self.warmup_steps,
            f"must be less than max_steps ({self.max_steps})",
        )
        require(
            self.learning_rate_end <= self.peak_learning_rate,
            "learning_rate_end",
            self.learning_rate_end,
            f"must not be above the learning rate ({self.peak_learning_rate})",
        )

        self._check_best()
        profiled = self.profile_steps
        require(
            profiled is None or (len(profiled) == 2 and 1 <= profiled[0] <= profiled[1]),
            "profile_steps",
            profiled,
            "give the first and the last step, such as [10,12]",
        )
        require(
            not self.generate_during_eval or self.generation_num_prompts > 0,
            "generate_during_eval",
            self.generate_during_eval,
            "there is no prompt to answer; give --generation_num_prompts",
        )
        for name in SETTING_DEFAULTS:
            value = getattr(self, name)
            require(
                not name.startswith("generation_")
                or self.generation_num_prompts > 0
                or value == SETTING_DEFAULTS[name],
                name,
                value,
                "has no effect without --generation_num_prompts",
            )
        try:
            self.sampling  # noqa: B018
        except Refused as refusal:
            raise Refused(str(refusal).replace("--", "--generation_")) from None

    def _check_best(self) -> None:
        """What needs evaluations, or a best one, has no effect without."""
        wanted = self.load_best_model_at_end or self.early_stopping_patience is not None
        for name in ("load_best_model_at_end", "early_stopping_patience"):
            value = getattr(self, name)
            require(not value or self.eval_steps is not None, name, value, "needs evaluations; give --eval_steps")
        for name in ("metric_for_best_model", "greater_is_better"):
            value = getattr(self, name)
            require(value is None or wanted, name, value, "goes with load_best_model_at_end or early_stopping_patience")
        require(
            not self.early_stopping_threshold or self.early_stopping_patience is not None,
            "early_stopping_threshold",
            self.early_stopping_threshold,
            "goes with early_stopping_patience",
        )

    @property
    def sampling(self) -> SamplingConfig:
        """How prompts are answered before, during and after the training."""
        return SamplingConfig(
            max_new_tokens=self.generation_max_new_tokens,
            do_sample=self.generation_do_sample,
            temperature=self.generation_temperature,
            top_k=self.generation_top_k,
            top_p=self.generation_top_p,
            repetition_penalty=self.generation_repetition_penalty,
            seed=self.generation_seed,
        )

    @property
    def peak_learning_rate(self) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        if self.lora is not None:
            return LORA_LEARNING_RATE
        return FINE_TUNING_LEARNING_RATE if self.model.path else FROM_SCRATCH_LEARNING_RATE

    @property
    def rows_per_step(self) -> int:
        """Rows an optimizer step takes."""
        return self.total_batch_size * self.gradient_accumulation_steps


# What a checkpoint means by a setting that it does not name: it is older than the setting.
SETTING_DEFAULTS: dict[str, Any] = {
    setting.name: setting.default for setting in fields(TrainConfig) if setting.default is not MISSING
}

# Settings that may change between two starts of one run: none has a part in the weights.
FREE_TO_CHANGE = {
    "data", "run_dir", "mesh", "logging_steps", "eval_data", "eval_steps", "eval_batch_size", "save_steps",
    "save_interval_minutes", "save_total_limit", "do_last_save", "load_best_model_at_end", "metric_for_best_model",
    "greater_is_better", "early_stopping_patience", "early_stopping_threshold", "max_skipped_steps", "profile_steps",
    "report_to", "attn_mechanism", "gradient_checkpointing", "distributed", "generate_during_eval",
    "generation_num_prompts", "generation_max_new_tokens", "generation_do_sample", "generation_temperature",
    "generation_top_k", "generation_top_p", "generation_repetition_penalty", "generation_seed",
    "dataloader_num_workers",
}  # fmt: skip
