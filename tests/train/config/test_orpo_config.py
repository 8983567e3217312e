"""The settings of the Python API: those of a run, but for what is given to ORPOTrainer."""

import dataclasses

import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.train.config.orpo_config import ORPOConfig
from oddsmill.train.config.train_config import TrainConfig


def test_it_has_every_setting_of_a_run():
    names = {field.name for field in dataclasses.fields(ORPOConfig)}
    assert {field.name for field in dataclasses.fields(TrainConfig)} <= names


def test_model_and_data_need_not_be_given_and_have_no_made_up_values():
    made = ORPOConfig(run_dir="r")
    assert made.model is None and made.data is None
    with pytest.raises(Refused, match=r"--beta=-1: must not be negative"):
        ORPOConfig(run_dir="r", beta=-1)


def test_only_what_was_set_goes_to_the_pipeline():
    assert ORPOConfig(run_dir="r").pipeline_settings() == {}
    made = ORPOConfig(run_dir="r", max_length=64, preprocessing={"packing": False})
    assert made.pipeline_settings() == {"max_length": 64, "packing": False}
