"""Settings of what happens between steps: metrics, evaluations, checkpoints, alarms."""

from typing import Literal

from oddsmill.schemas.errors import require
from oddsmill.schemas.settings import setting, settings


@settings()
class MeasuringSettings:
    """When training steps and the eval split are measured."""

    logging_steps: int = setting(
        "Metrics are written every so many steps.",
        default=1,
        above=0,
        may_change=True,
    )
    eval_data: str | None = setting(
        "The preprocessed folder whose eval split is measured; null: that of data.",
        default=None,
        may_change=True,
    )
    eval_batch_size: int | None = setting(
        "The rows of an evaluation's batch, over all devices; null: as many as total_batch_size.",
        default=None,
        above=0,
        may_change=True,
    )
    eval_steps: int | None = setting(
        "The eval split is measured every so many steps, and at the end; null: at the end alone.",
        default=None,
        above=0,
        may_change=True,
    )


@settings()
class CheckpointSettings:
    """When checkpoints are written, and which are kept."""

    save_steps: int | None = setting(
        "A checkpoint is written every so many steps; null: none between start and end.",
        default=500,
        above=0,
        may_change=True,
    )
    save_interval_minutes: float | None = setting(
        "A checkpoint is also written whenever so much time has passed since the last.",
        default=None,
        above=0,
        may_change=True,
    )
    save_total_limit: int = setting(
        "How many checkpoints are kept: the newest, and with load_best_model_at_end the best among them.",
        default=2,
        above=0,
        may_change=True,
    )
    do_last_save: bool = setting(
        "A checkpoint is written at the end too; the model is exported in any case.",
        default=True,
        may_change=True,
    )


@settings()
class BestModelSettings:
    """Which evaluation is the best, and what follows from it."""

    load_best_model_at_end: bool = setting(
        "The run leaves the weights of the best evaluation, not the last ones; each evaluation that is the best so far "
        "is followed by a checkpoint.",
        default=False,
        needs=("eval_steps",),
        may_change=True,
    )
    metric_for_best_model: str | None = setting(
        "The metric of the evaluations that says which is the best, with or without `eval/`. null: loss.",
        default=None,
        needs=("load_best_model_at_end", "early_stopping_patience"),
        may_change=True,
    )
    greater_is_better: bool | None = setting(
        "Whether more of that metric is better. null: unless its name ends with loss.",
        default=None,
        needs=("load_best_model_at_end", "early_stopping_patience"),
        may_change=True,
    )
    early_stopping_patience: int | None = setting(
        "The run ends after so many evaluations on end without a better one; null: it does not.",
        default=None,
        above=0,
        needs=("eval_steps",),
        may_change=True,
    )
    early_stopping_threshold: float = setting(
        "An evaluation must be better by more than this to count for early_stopping_patience.",
        default=0.0,
        at_least=0,
        needs=("early_stopping_patience",),
        may_change=True,
    )


@settings()
class MonitorSettings:
    """How a run is watched."""

    max_skipped_steps: int = setting(
        "So many steps whose loss or gradient is not finite are left out; one more ends the run.",
        default=0,
        at_least=0,
        may_change=True,
    )
    profile_steps: list[int] | None = setting(
        "The first and the last step of a profiler trace, counted from 1; null: there is none.",
        default=None,
        may_change=True,
    )
    report_to: list[Literal["tensorboard", "wandb"]] = setting(
        "Where metrics go beside metrics.jsonl.",
        default_factory=lambda: ["tensorboard"],
        may_change=True,
    )

    def check(self) -> None:
        steps = self.profile_steps
        require(
            steps is None or (len(steps) == 2 and 1 <= steps[0] <= steps[1]),
            "profile_steps",
            steps,
            "give the first and the last step, such as [10,12]",
        )
