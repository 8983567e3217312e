"""Preference fine-tuning with ORPO on JAX: text to packed token rows on Apache Beam, and rows to weights.

The folders beside this file are links to `schemas/`, `pipeline/` and `train/` at the top of the repository; a wheel
holds them as ordinary folders. The names below are imported on first use, so that each stage needs its own libraries
alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oddsmill.pipeline import PreprocessConfig, SourceConfig, preprocess
    from oddsmill.train import DistributedConfig, LoraConfig, MeshConfig, ModelConfig, ORPOConfig, ORPOTrainer

__all__ = [
    "DistributedConfig",
    "LoraConfig",
    "MeshConfig",
    "ModelConfig",
    "ORPOConfig",
    "ORPOTrainer",
    "PreprocessConfig",
    "SourceConfig",
    "preprocess",
]
_PIPELINE_NAMES = ("PreprocessConfig", "SourceConfig", "preprocess")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    stage = "pipeline" if name in _PIPELINE_NAMES else "train"
    return getattr(import_module(f"oddsmill.{stage}"), name)


def __dir__() -> list[str]:
    return __all__
