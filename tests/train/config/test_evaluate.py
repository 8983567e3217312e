"""The settings of `oddsmill train eval`."""

import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.train.config.evaluate import EvaluateConfig
from oddsmill.train.config.model import ModelConfig

MODEL = {"model": ModelConfig(path="m"), "data": "d"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give either --model.path"),
        (MODEL | {"run_dir": "r"}, "give either --model.path"),
        ({"model": ModelConfig(config="c"), "run_dir": "r"}, "--model.config=c: has no weights; leave it out"),
        ({"model": ModelConfig(path="m")}, "--data=None: is needed"),
        (MODEL | {"checkpoint": 2}, "--checkpoint=2: has no effect without --run_dir"),
        ({"run_dir": "r", "compute_dtype": "bfloat16"}, "--compute_dtype=bfloat16: has no effect with --run_dir=r"),
        ({"run_dir": "r", "batch_size": 0}, "--batch_size=0: must be positive"),
        ({"run_dir": "r", "beta": -1.0}, "--beta=-1.0: must not be negative"),
    ],
)
def test_a_model_or_a_run_is_measured_and_only_by_what_it_has(given, message):
    with pytest.raises(Refused) as refusal:
        EvaluateConfig(**given)
    assert message in str(refusal.value)


def test_loss_and_dtypes_are_those_of_the_run_unless_given():
    made = EvaluateConfig(run_dir="r")
    assert (made.beta, made.nll_scope, made.param_dtype, made.data) == (None, None, None, None)
