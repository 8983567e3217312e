"""Stage one: preference texts -> packed rows of token ids. Imports nothing of JAX."""

from pipeline.config import PreprocessConfig, SourceConfig
from pipeline.run import preprocess

__all__ = ["PreprocessConfig", "SourceConfig", "preprocess"]
