"""Which model is trained, and which of its weights."""

import re
from dataclasses import dataclass
from typing import Literal

from oddsmill.schemas.errors import require


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model is trained: one of the two must be given.

    Args:
      path: a Hugging Face folder (config.json and safetensors) whose weights the run starts from, or the id
        of a model on the hub.
      revision: branch, tag or commit of that model on the hub.
      config: a Hugging Face config.json; the run starts from random weights.
    """

    path: str | None = None
    revision: str | None = None
    config: str | None = None

    def __post_init__(self) -> None:
        require(
            (self.path is None) != (self.config is None),
            "model.path",
            self.path,
            f"give either --model.path (trained weights) or --model.config (random weights; now {self.config})",
        )
        require(
            self.revision is None or self.path is not None,
            "model.revision",
            self.revision,
            "is of a hub model; give its id by --model.path",
        )


def is_pattern(pattern: str) -> bool:
    """Whether it is a regular expression."""
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters; the weights of the model itself stay as they are. Names are PEFT's.

    Args:
      rank: of every adapter.
      alpha: what an adapter adds is scaled by alpha / rank.
      dropout: share of an adapter's inputs that a training step leaves out.
      target_modules: the linear layers that have one, by the end of their name (`q_proj`) or by a regular
        expression of all of it (`model.layers.0.self_attn.q_proj`). null: all of attention and MLP.
      use_rslora: scales by alpha / sqrt(rank) instead.
      export: what a run leaves: `merged`, a model with the adapters added into its weights; `adapter`, a
        folder that PEFT loads beside the model; or `both`.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: list[str] | None = None
    use_rslora: bool = False
    export: Literal["merged", "adapter", "both"] = "merged"

    def __post_init__(self) -> None:
        require(self.rank >= 1, "lora.rank", self.rank, "must be at least 1")
        require(self.alpha > 0, "lora.alpha", self.alpha, "must be positive")
        require(0 <= self.dropout < 1, "lora.dropout", self.dropout, "must be in [0, 1)")
        targets = self.target_modules
        require(targets is None or len(targets) > 0, "lora.target_modules", targets, "names nothing; null is all")
        for target in targets or []:
            require(is_pattern(target), "lora.target_modules", target, "neither a name nor a regular expression")
