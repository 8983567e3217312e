"""Settings of how a step is computed."""

import typing

import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.train.attention.choice import MECHANISMS
from oddsmill.train.config.compute import AttentionMechanism


def test_each_attention_mechanism_that_can_be_asked_for_exists():
    assert set(typing.get_args(AttentionMechanism)) == {"auto", *MECHANISMS}


def test_what_is_computed_again_is_a_flag_or_a_policy(make):
    for policy in (True, False, "dots_saveable"):
        assert make(gradient_checkpointing=policy).gradient_checkpointing == policy
    with pytest.raises(Refused, match="--gradient_checkpointing=everything: expected bool or one of dots_saveable, "):
        make(gradient_checkpointing="everything")
    with pytest.raises(Refused, match="--param_dtype=float16: expected one of float32, bfloat16"):
        make(param_dtype="float16")
