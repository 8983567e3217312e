"""How weights are updated: learning rate, optimizer, and the rows of a step."""

from typing import Literal

from oddsmill.schemas.errors import require
from oddsmill.schemas.settings import setting, settings


@settings()
class ScheduleSettings:
    """The learning rate over the steps of a run."""

    learning_rate: float | None = setting(
        "The peak of the learning rate. null: 5e-5 with lora, else 5e-6 with model.path and 1e-3 with model.config.",
        default=None,
        above=0,
    )
    learning_rate_end: float = setting(
        "The linear or cosine decay ends at this learning rate.",
        default=0.0,
        at_least=0,
        only_with={"lr_scheduler_type": ("linear", "cosine")},
    )
    lr_scheduler_type: Literal["linear", "cosine", "constant", "inverse_sqrt"] = setting(
        "How the learning rate falls after the warmup: linear, cosine, inverse_sqrt (by the square root of the steps), "
        "or constant, which does not fall and is transformers' constant_with_warmup. The others are called as there.",
        default="linear",
    )
    warmup_steps: int = setting("Steps of linear warmup from zero.", default=0, at_least=0)
    warmup_ratio: float = setting(
        "The warmup as a share of the run's steps, rounded up, instead of warmup_steps.",
        default=0.0,
        at_least=0,
        below=1,
    )

    def check(self) -> None:
        require(
            not (self.warmup_ratio and self.warmup_steps),
            "warmup_ratio",
            self.warmup_ratio,
            f"says the same as --warmup_steps={self.warmup_steps}; give one of the two",
        )


_WITH_MOMENTS = ("adamw", "adamw_bf16", "lion")


@settings()
class OptimizerSettings:
    """The optimizer."""

    optim: Literal["adamw", "adamw_bf16", "adafactor", "lion", "sgd"] = setting(
        "The optimizer: adamw; adamw_bf16, whose moments are kept in bfloat16, rounded at random; adafactor, with an "
        "absolute learning rate; lion, which wants a learning rate about a tenth of adamw's; or sgd, without momentum.",
        default="adamw",
    )
    weight_decay: float = setting(
        "Decoupled weight decay, times the learning rate; norms and biases do not decay.",
        default=0.0,
        at_least=0,
    )
    adam_beta1: float = setting(
        "The decay of adamw's first moment; with lion the share of the momentum in a step.",
        default=0.9,
        at_least=0,
        below=1,
        only_with={"optim": _WITH_MOMENTS},
    )
    adam_beta2: float = setting(
        "The decay of adamw's second moment; with lion of the momentum (its authors have 0.99).",
        default=0.999,
        at_least=0,
        below=1,
        only_with={"optim": _WITH_MOMENTS},
    )
    adam_epsilon: float = setting(
        "The epsilon of adamw, which stands outside the root.",
        default=1e-8,
        above=0,
        only_with={"optim": ("adamw", "adamw_bf16")},
    )
    max_grad_norm: float | None = setting(
        "Gradients are scaled down to this global norm; null turns it off.",
        default=1.0,
        above=0,
    )


@settings()
class BatchSettings:
    """The rows of each step, and how many steps there are."""

    total_batch_size: int = setting(
        "The rows of a micro-batch over all devices; a packed row holds several pairs.",
        default=8,
        above=0,
    )
    gradient_accumulation_steps: int = setting("The micro-batches of an optimizer step.", default=1, above=0)
    compat: Literal["trl"] | None = setting(
        "trl takes the steps that TRL takes on one device with per_device_train_batch_size=total_batch_size: the loss "
        "and each metric are the mean of the micro-batches' own means, and the last step of an epoch holds what is "
        "left of its rows. null: both means of the loss are over all of a step's tokens and pairs, so that results do "
        "not depend on how rows fall into micro-batches, and epochs follow each other without a seam.",
        default=None,
    )
    num_train_epochs: float = setting("Passes over the rows; max_steps wins over it.", default=3.0, above=0)
    max_steps: int | None = setting(
        "Optimizer steps; null: as many as num_train_epochs takes.",
        default=None,
        above=0,
    )
    seed: int = setting(
        "The seed of the initial weights, of the order of rows, of dropout, and of what is rounded at random.",
        default=0,
        at_least=0,
        at_most=2**32 - 1,
    )
    shuffle_train_dataset: bool = setting(
        "Rows have a new permutation each epoch; false keeps the stored order.",
        default=True,
    )
    dataloader_num_workers: int = setting(
        "Processes that read and decode rows ahead, for each process of the run; with 0 a thread of its own does. A "
        'script that trains with some must start below `if __name__ == "__main__":`, for they import it.',
        default=0,
        at_least=0,
        may_change=True,
    )
    verify_shards: bool = setting(
        "Every shard is compared with its digest at every start; false: only those that the run has not compared "
        "before, and those whose size or time of change is another since.",
        default=False,
        may_change=True,
    )

    @property
    def rows_per_step(self) -> int:
        """The rows that an optimizer step takes."""
        return self.total_batch_size * self.gradient_accumulation_steps
