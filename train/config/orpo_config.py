"""The settings of the Python API."""

from typing import Any

from oddsmill.schemas.settings import setting, settings
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainingSettings


@settings()
class ORPOConfig(TrainingSettings):
    """The settings of a run and, for rows of text, of their preprocessing."""

    run_dir: str = setting(
        "Where checkpoints, metrics and the exported model go. The same settings again go on from there."
    )
    data: str | None = setting("As train_dataset of ORPOTrainer: a preprocessed folder.", default=None)
    model: ModelConfig | None = setting("As model of ORPOTrainer.", default=None)
    max_length: int | None = setting(
        "The longest prompt + answer, in tokens; null: the pipeline's default, as with the next two.",
        default=None,
    )
    max_prompt_length: int | None = setting(
        "A prompt is cut to make room for the answers, but not below this.",
        default=None,
    )
    max_completion_length: int | None = setting("The longest answer, in tokens.", default=None)
    preprocessing: dict[str, Any] = setting(
        'Further settings of `oddsmill pipeline run`, e.g. {"packing": False}.',
        default_factory=dict,
    )

    def pipeline_settings(self) -> dict[str, Any]:
        """The settings of `oddsmill pipeline run` that were given."""
        lengths = {
            "max_length": self.max_length,
            "max_prompt_length": self.max_prompt_length,
            "max_completion_length": self.max_completion_length,
        }
        return {name: value for name, value in lengths.items() if value is not None} | self.preprocessing
