"""Which model is trained, and which of its weights."""

import re
from typing import Literal

from oddsmill.schemas.errors import require
from oddsmill.schemas.settings import setting, settings


@settings(group="model.")
class ModelConfig:
    """Which model is trained: one of path and config must be given."""

    path: str | None = setting(
        "The run starts from the weights of this Hugging Face folder (config.json and safetensors), or of the model "
        "with this id on the hub.",
        default=None,
    )
    revision: str | None = setting(
        "Branch, tag or commit of that model on the hub.",
        default=None,
        needs=("path",),
    )
    config: str | None = setting("The run starts from random weights for this Hugging Face config.json.", default=None)

    def check(self) -> None:
        require(
            (self.path is None) != (self.config is None),
            "model.path",
            self.path,
            f"give either --model.path (trained weights) or --model.config (random weights; now {self.config})",
        )


def is_pattern(pattern: str) -> bool:
    """Tells whether a text is a regular expression."""
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


# PEFT's name for every linear layer but the head.
ALL_LINEAR = "all-linear"


@settings(group="lora.")
class LoraConfig:
    """Low-rank adapters; the weights of the model itself stay as they are. Names are PEFT's."""

    rank: int = setting("The rank of every adapter.", default=16, at_least=1)
    alpha: float = setting("What an adapter adds is scaled by alpha / rank.", default=32.0, above=0)
    dropout: float = setting(
        "The share of an adapter's inputs that a training step leaves out.",
        default=0.0,
        at_least=0,
        below=1,
    )
    target_modules: list[str] | str | None = setting(
        "The linear layers that have an adapter, by the end of their name (`q_proj`) or by a regular expression that "
        "matches all of it (`model.layers.0.self_attn.q_proj`); a list, or one. all-linear, or null: all of attention "
        "and MLP.",
        default=None,
    )
    use_rslora: bool = setting("The scale is alpha / sqrt(rank) instead.", default=False)
    export: Literal["merged", "adapter", "both"] = setting(
        "What a run leaves: `merged` is a model with the adapters added into its weights; `adapter` is a folder that "
        "PEFT loads beside the model; `both` is both.",
        default="merged",
        may_change=True,
    )

    @property
    def targets(self) -> list[str] | None:
        """The names and patterns of `target_modules`; None for all linear layers of attention and MLP."""
        given = [self.target_modules] if isinstance(self.target_modules, str) else self.target_modules
        return None if given is None or ALL_LINEAR in given else given

    def check(self) -> None:
        targets = self.target_modules
        require(targets is None or len(targets) > 0, "lora.target_modules", targets, "names nothing; null is all")
        for target in self.targets or []:
            require(is_pattern(target), "lora.target_modules", target, "neither a name nor a regular expression")


@settings()
class ModelSettings:
    """The model of a run."""

    model: ModelConfig = setting("Which model is trained.")


@settings()
class TrainedWeightsSettings:
    """Which weights are trained."""

    lora: LoraConfig | None = setting(
        "Low-rank adapters are trained instead of the model's own weights; null trains the weights.",
        default=None,
    )
    frozen_parameters: list[str] = setting(
        "Weights that are not trained: regular expressions, each found in their Hugging Face names.",
        default_factory=list,
    )
    frozen_dtype: Literal["float32", "bfloat16"] | None = setting(
        "The dtype that frozen weights are kept in; with lora these are all of the model's own. null: the dtype that "
        "they are stored in; with model.config the param_dtype.",
        default=None,
        needs=("lora", "frozen_parameters"),
    )

    def check(self) -> None:
        for pattern in self.frozen_parameters:
            require(is_pattern(pattern), "frozen_parameters", pattern, "not a regular expression")
        require(
            self.lora is None or not self.frozen_parameters,
            "frozen_parameters",
            self.frozen_parameters,
            "with lora all weights of the model are frozen already",
        )
