"""Stage one: preference texts -> packed rows of token ids. Imports nothing of JAX."""

from oddsmill.pipeline.config import PreprocessConfig, SourceConfig
from oddsmill.pipeline.run import preprocess

__all__ = ["PreprocessConfig", "SourceConfig", "preprocess"]
