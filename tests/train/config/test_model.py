"""Which model, and which of its weights."""

import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.train.config.model import LoraConfig, ModelConfig, is_pattern


def test_exactly_one_model_is_needed():
    for given in ({}, {"path": "a", "config": "b"}):
        with pytest.raises(Refused, match=r"--model\.path"):
            ModelConfig(**given)


def test_a_revision_is_of_a_model_with_weights():
    assert ModelConfig(path="org/model", revision="v1").revision == "v1"
    with pytest.raises(Refused, match=r"--model.revision=v1: has no effect without --model.path"):
        ModelConfig(config="config.json", revision="v1")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rank": 0}, "--lora.rank=0: must be at least 1"),
        ({"alpha": 0.0}, "--lora.alpha=0.0: must be positive"),
        ({"dropout": 1.0}, "--lora.dropout=1.0: must be at least 0 and less than 1"),
        ({"target_modules": []}, "--lora.target_modules=[]: names nothing"),
        ({"target_modules": ["*_proj"]}, "--lora.target_modules=*_proj: neither a name nor a regular expression"),
        ({"export": "all"}, "--lora.export=all: expected one of merged, adapter, both"),
    ],
)
def test_adapters_that_cannot_be_are_refused(given, message):
    with pytest.raises(Refused) as refusal:
        LoraConfig(**given)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"frozen_dtype": "bfloat16"}, "--frozen_dtype=bfloat16: has no effect without --lora or --frozen_parameters"),
        ({"frozen_parameters": ["["]}, "--frozen_parameters=[: not a regular expression"),
        (
            {"frozen_parameters": ["norm"], "lora": LoraConfig()},
            "with lora all weights of the model are frozen already",
        ),
        ({"lora": LoraConfig(), "model": ModelConfig(config="c")}, "give --model.path instead of --model.config"),
    ],
)
def test_what_cannot_be_frozen_or_adapted_is_refused(make, given, message):
    with pytest.raises(Refused) as refusal:
        make(**given)
    assert message in str(refusal.value)


@pytest.mark.parametrize("given", ["all-linear", ["all-linear"], ["q_proj", "all-linear"], None])
def test_all_linear_is_pefts_name_for_every_layer(given):
    assert LoraConfig(target_modules=given).targets is None


def test_one_target_may_be_given_without_a_list():
    assert LoraConfig(target_modules="q_proj").targets == ["q_proj"]


def test_a_pattern_is_what_re_compiles():
    assert is_pattern(r"layers\.\d+\.mlp") and not is_pattern("(")
