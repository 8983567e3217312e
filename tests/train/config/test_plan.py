"""The settings of a plan: those of a run, with what stands for its data and its devices."""

import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.train.config.devices import MeshConfig
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.plan import PlanConfig


def make(**changes):
    return PlanConfig(**{"model": ModelConfig(config="c"), "topology": "cpu:1", "row_length": 64, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row_length": None}, "--row_length=None: needed without --data"),
        ({"row_length": 8}, "--row_length=8: too short for its pairs"),
        ({"row_length": 0}, "--row_length=0: must be positive"),
        ({"data": "d"}, "--row_length=64: has no effect with --data=d"),
        ({"data": "d", "row_length": None, "pairs_per_row": 2}, "--pairs_per_row=2: has no effect with --data=d"),
        ({"learning_rate": 1e-6, "learning_rate_end": 1e-5}, "--learning_rate_end=1e-05: must not be above"),
    ],
)
def test_rows_are_those_of_data_or_described(changes, message):
    with pytest.raises(Refused) as refusal:
        make(**changes)
    assert message in str(refusal.value)


def test_the_policy_is_looked_for_unless_it_is_given():
    assert make().gradient_checkpointing is None
    run = make(max_steps=7).run_settings(mesh=MeshConfig(fsdp=2), gradient_checkpointing="dots_saveable")
    assert (run.max_steps, run.mesh.fsdp, run.gradient_checkpointing) == (7, 2, "dots_saveable")
