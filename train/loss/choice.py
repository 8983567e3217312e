"""The losses that a run can have, by the name that `--loss` gives them."""

from oddsmill.train.config.loss import LossSettings
from oddsmill.train.loss.orpo import Orpo
from oddsmill.train.loss.pairs import PreferenceLoss


def preference_loss(settings: LossSettings) -> PreferenceLoss:
    """Returns the loss that the settings choose."""
    return Orpo(beta=settings.beta, nll_scope=settings.nll_scope)
