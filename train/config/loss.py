"""The preference loss."""

from typing import Literal

from oddsmill.schemas.settings import setting, settings

NllScope = Literal["full", "response"]


@settings()
class LossSettings:
    """The preference loss."""

    beta: float = setting("The weight of the odds-ratio term (the paper's lambda).", default=0.1, at_least=0)
    nll_scope: NllScope = setting(
        "The tokens of the NLL term: `full` takes prompt and chosen answer, `response` the answer alone.",
        default="full",
    )
