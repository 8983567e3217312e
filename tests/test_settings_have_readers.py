"""No setting that nothing reads."""

import dataclasses
import re
from pathlib import Path

import pytest

from oddsmill.pipeline.config import PreprocessConfig, SourceConfig
from oddsmill.train.config.devices import DistributedConfig, MeshConfig
from oddsmill.train.config.evaluate import EvaluateConfig
from oddsmill.train.config.export import ExportConfig
from oddsmill.train.config.generate import GenerateConfig
from oddsmill.train.config.model import LoraConfig, ModelConfig
from oddsmill.train.config.plan import PlanConfig
from oddsmill.train.config.sampling import SamplingConfig
from oddsmill.train.config.train_config import TrainConfig

ROOT = Path(__file__).parents[1]


def code_of(stage: str) -> str:
    """The stage's code without docstrings, and without the lines that declare the settings."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / stage).rglob("*.py")))
    return re.sub(r'""".*?"""', "", text, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        ("pipeline", PreprocessConfig),
        ("pipeline", SourceConfig),
        ("train", TrainConfig),
        ("train", ModelConfig),
        ("train", LoraConfig),
        ("train", MeshConfig),
        ("train", DistributedConfig),
        ("train", EvaluateConfig),
        ("train", GenerateConfig),
        ("train", ExportConfig),
        ("train", PlanConfig),
    ],
)
def test_every_setting_has_a_reader(stage, settings):
    code = code_of(stage)
    unread = [field.name for field in dataclasses.fields(settings) if not re.search(rf"\.{field.name}\b", code)]
    assert not unread


def test_every_setting_is_documented():
    for settings in (
        PreprocessConfig,
        SourceConfig,
        TrainConfig,
        ModelConfig,
        LoraConfig,
        MeshConfig,
        DistributedConfig,
        EvaluateConfig,
        SamplingConfig,
        GenerateConfig,
        ExportConfig,
        PlanConfig,
    ):
        texts = [kind.__doc__ or "" for kind in reversed(settings.__mro__) if dataclasses.is_dataclass(kind)]
        documented = re.findall(r"^ {6}(\w+): ", "\n".join(texts), re.MULTILINE)
        assert documented == [field.name for field in dataclasses.fields(settings)]
