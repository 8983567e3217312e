from collections.abc import Callable
from typing import Any

import pytest

from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig


@pytest.fixture
def make() -> Callable[..., TrainConfig]:
    """The settings of a run, with changes."""

    def make(**changes: Any) -> TrainConfig:
        return TrainConfig(**{"data": "d", "run_dir": "r", "model": ModelConfig(path="m"), **changes})

    return make
