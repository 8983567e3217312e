"""The settings of a training run. Names are those of EasyDeL's ORPOConfig and of TRL wherever they have one."""

from oddsmill.schemas.errors import require
from oddsmill.schemas.settings import setting, settings
from oddsmill.train.config.between_steps import (
    BestModelSettings,
    CheckpointSettings,
    MeasuringSettings,
    MonitorSettings,
)
from oddsmill.train.config.compute import ComputeSettings, RematerializationSettings
from oddsmill.train.config.devices import DeviceSettings
from oddsmill.train.config.loss import LossSettings
from oddsmill.train.config.model import ModelSettings, TrainedWeightsSettings
from oddsmill.train.config.optimization import BatchSettings, OptimizerSettings, ScheduleSettings
from oddsmill.train.config.sampling import SampleAnswerSettings

# From a trained model: what the published ORPO runs used (Mistral-ORPO). Random weights need a larger step.
FINE_TUNING_LEARNING_RATE = 5e-6
# Adapters want about ten times the rate of full fine-tuning (Schulman et al. 2025, LoRA Without Regret).
LORA_LEARNING_RATE = 5e-5
FROM_SCRATCH_LEARNING_RATE = 1e-3


# Python takes the fields of the last base first: read the bases below from the last to the first.


@settings()
class StepSettings(
    ComputeSettings,
    BatchSettings,
    OptimizerSettings,
    ScheduleSettings,
    LossSettings,
    DeviceSettings,
    TrainedWeightsSettings,
):
    """Holds all that defines a step, but for its model and its rows."""

    def check(self) -> None:
        require(
            self.max_steps is None or self.warmup_steps < self.max_steps,
            "warmup_steps",
            self.warmup_steps,
            f"must be less than max_steps ({self.max_steps})",
        )


@settings()
class BetweenStepsSettings(
    SampleAnswerSettings, MonitorSettings, BestModelSettings, CheckpointSettings, MeasuringSettings
):
    """Holds what is done between two steps."""


@settings()
class TrainingSettings(BetweenStepsSettings, RematerializationSettings, StepSettings):
    """How a model is trained: all settings of a run but its model, its data and its folder."""


@settings()
class RunSettings(TrainingSettings, ModelSettings):
    """Holds all settings of a run but its data and its folder; its step is compiled from them."""

    def check(self) -> None:
        require(
            self.lora is None or self.model.path is not None,
            "lora.rank",
            self.lora and self.lora.rank,
            "lora adapts trained weights; give --model.path instead of --model.config",
        )
        require(
            self.learning_rate_end <= self.peak_learning_rate,
            "learning_rate_end",
            self.learning_rate_end,
            f"must not be above the learning rate ({self.peak_learning_rate})",
        )

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate that is given, or the default one for what is trained."""
        if self.learning_rate is not None:
            return self.learning_rate
        if self.lora is not None:
            return LORA_LEARNING_RATE
        return FINE_TUNING_LEARNING_RATE if self.model.path else FROM_SCRATCH_LEARNING_RATE


@settings()
class FolderSettings:
    """Names what a run reads and where it writes."""

    data: str = setting("The folder that `oddsmill pipeline run` wrote.", may_change=True)
    run_dir: str = setting(
        "Where checkpoints, metrics and the exported model go. The same command again goes on from there.",
        may_change=True,
    )


@settings()
class TrainConfig(RunSettings, FolderSettings):
    """Trains on preprocessed rows with a preference loss."""
