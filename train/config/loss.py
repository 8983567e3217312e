"""The preference loss."""

from typing import Literal

from oddsmill.schemas.settings import setting, settings

NllScope = Literal["full", "response"]
LossName = Literal["orpo", "simpo", "cpo"]


@settings()
class LossSettings:
    """The preference loss."""

    loss: LossName = setting(
        "The preference loss: orpo; simpo, which compares mean log-probabilities; or cpo, which compares their sums. "
        "The last two are those of TRL's CPOTrainer, with loss_type simpo and sigmoid.",
        default="orpo",
    )
    beta: float = setting(
        "The weight of the odds-ratio term (the paper's lambda); for simpo and cpo the factor of the difference of the "
        "log-probabilities.",
        default=0.1,
        at_least=0,
    )
    nll_scope: NllScope = setting(
        "The tokens of the NLL term: `full` takes prompt and chosen answer, `response` the answer alone, as simpo and "
        "cpo always do.",
        default="full",
        only_with={"loss": ("orpo",)},
    )
    simpo_gamma: float = setting(
        "The margin by which the chosen answer's reward must be above the rejected one's.",
        default=0.5,
        at_least=0,
        only_with={"loss": ("simpo",)},
    )
    cpo_alpha: float = setting(
        "The weight of the NLL of the chosen answer; 0 is SimPO as in its paper.",
        default=1.0,
        at_least=0,
        only_with={"loss": ("simpo", "cpo")},
    )
    label_smoothing: float = setting(
        "The share of pairs whose two answers are taken to be swapped.",
        default=0.0,
        at_least=0,
        below=0.5,
        only_with={"loss": ("simpo", "cpo")},
    )
