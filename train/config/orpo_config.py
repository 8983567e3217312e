"""The settings of the Python API."""

from dataclasses import dataclass, field
from typing import Any

from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig

GIVEN_TO_TRAINER = ModelConfig(path="the model of ORPOTrainer")


_LENGTHS = ("max_length", "max_prompt_length", "max_completion_length")


@dataclass(frozen=True, kw_only=True)
class ORPOConfig(TrainConfig):
    """The settings of a run and, for rows of text, of their preprocessing. Model and data are given to ORPOTrainer.

    Args:
      max_length: longest prompt + answer, in tokens; null: the pipeline's default, as with the next two.
      max_prompt_length: a prompt is cut to make room for the answers, but not below this.
      max_completion_length: longest answer, in tokens.
      preprocessing: further settings of `oddsmill pipeline run`, e.g. {"packing": False}.
    """

    data: str = ""
    model: ModelConfig = GIVEN_TO_TRAINER
    max_length: int | None = None
    max_prompt_length: int | None = None
    max_completion_length: int | None = None
    preprocessing: dict[str, Any] = field(default_factory=dict)

    def pipeline_settings(self) -> dict[str, Any]:
        """What was set of the settings of `oddsmill pipeline run`."""
        lengths = {name: getattr(self, name) for name in _LENGTHS}
        return {name: value for name, value in lengths.items() if value is not None} | self.preprocessing
