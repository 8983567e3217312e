"""The losses that a run can have, by the name that `--loss` gives them."""

from oddsmill.train.config.loss import LossSettings
from oddsmill.train.loss.orpo import Orpo
from oddsmill.train.loss.pairs import PreferenceLoss
from oddsmill.train.loss.simpo import cpo, simpo


def preference_loss(settings: LossSettings) -> PreferenceLoss:
    """Returns the loss that the settings choose."""
    beta, alpha, smoothing = settings.beta, settings.cpo_alpha, settings.label_smoothing
    match settings.loss:
        case "orpo":
            return Orpo(beta=beta, nll_scope=settings.nll_scope)
        case "simpo":
            return simpo(beta=beta, gamma=settings.simpo_gamma, nll_weight=alpha, label_smoothing=smoothing)
        case "cpo":
            return cpo(beta=beta, nll_weight=alpha, label_smoothing=smoothing)
