"""Settings of answers: nonsense, and what has no effect, is refused; those of a run have the ranges of the verb's."""

import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.settings import facts_of
from oddsmill.train.config.sampling import SamplingConfig
from oddsmill.train.config.train_config import TrainConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "--max_new_tokens=0: must be positive"),
        ({"do_sample": True, "temperature": 0.0}, "--temperature=0.0: must be positive; greedy is --do_sample=false"),
        ({"do_sample": True, "top_p": 1.1}, "--top_p=1.1: must be between 0 and 1"),
        ({"do_sample": True, "top_k": -1}, "--top_k=-1: must not be negative"),
        ({"repetition_penalty": 0.0}, "--repetition_penalty=0.0: must be positive"),
        ({"temperature": 0.7}, "--temperature=0.7: has no effect without --do_sample=true"),
        ({"top_k": 5}, "--top_k=5: has no effect"),
        ({"top_p": 0.9}, "--top_p=0.9: has no effect"),
        ({"num_return_sequences": 2}, "--num_return_sequences=2: has no effect"),
        ({"seed": 1}, "--seed=1: has no effect"),
        ({"do_sample": True, "seed": 2**32}, "--seed=4294967296: must be between 0 and 4294967295"),
    ],
)
def test_nonsense_and_settings_without_effect_are_refused(settings, message):
    with pytest.raises(Refused, match=message):
        SamplingConfig(**settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generation_temperature": 0.5}, "has no effect without --generation_do_sample=true"),
        (
            {"generation_num_prompts": 0},
            "--generation_max_new_tokens=9: has no effect without --generation_num_prompts",
        ),
        ({"generation_num_prompts": 0, "generation_max_new_tokens": 64, "generate_during_eval": True}, "has no effect"),
        ({"generation_do_sample": True, "generation_seed": 2**63}, "--generation_seed=9223372036854775808: must be"),
        ({"generation_do_sample": True, "generation_temperature": 0.0}, "greedy is --generation_do_sample=false"),
    ],
)
def test_those_of_a_run_are_named_as_they_are_given(make, changes, message):
    with pytest.raises(Refused) as refusal:
        make(**{"generation_num_prompts": 1, "generation_max_new_tokens": 9, **changes})
    assert message in str(refusal.value)


def test_a_run_answers_as_it_was_told(make):
    made = make(generation_num_prompts=2, generation_do_sample=True, generation_top_k=3, generation_seed=4)
    assert made.sampling == SamplingConfig(max_new_tokens=64, do_sample=True, top_k=3, seed=4)


def test_help_of_the_same_setting_is_the_same():
    of_a_run, of_the_verb = facts_of(TrainConfig, "generation_top_p"), facts_of(SamplingConfig, "top_p")
    assert of_a_run.help == of_the_verb.help
