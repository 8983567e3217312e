"""The table of mechanisms, and which of them a run takes."""

from oddsmill.schemas.errors import Refused
from oddsmill.train.attention.cudnn import CUDNN
from oddsmill.train.attention.mechanism import Mechanism, Workload
from oddsmill.train.attention.pallas import PALLAS
from oddsmill.train.attention.splash import SPLASH
from oddsmill.train.attention.vanilla import VANILLA
from oddsmill.train.attention.xla import XLA
from oddsmill.train.config.compute import AttentionMechanism

# By their values of --attn_mechanism, which besides knows auto.
MECHANISMS = {mechanism.name: mechanism for mechanism in (VANILLA, XLA, CUDNN, PALLAS, SPLASH)}
# auto takes the first of these that can do it, else XLA. Pallas is not among them until it has been timed beside cuDNN.
_AUTO = (CUDNN, SPLASH)


def choose_mechanism(requested: AttentionMechanism, workload: Workload) -> Mechanism:
    """The mechanism of a run.

    Raises:
      Refused: the one that was asked for cannot do it.
    """
    if requested == "auto":
        return next((mechanism for mechanism in _AUTO if mechanism.obstacle(workload) is None), XLA)
    problem = MECHANISMS[requested].obstacle(workload)
    if problem:
        raise Refused(f"--attn_mechanism={requested}: {problem}. Leave it out, and one that fits is taken")
    return MECHANISMS[requested]
