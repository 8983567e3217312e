"""The settings of `oddsmill train generate`."""

import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.train.config.generate import GenerateConfig
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.sampling import SamplingConfig


def make(**changes):
    return GenerateConfig(**{"model": ModelConfig(path="m"), "prompt": "q", **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": None}, "give either --prompts (a file) or --prompt"),
        ({"prompts": "p.jsonl"}, "give either --prompts (a file) or --prompt"),
        ({"model": ModelConfig(config="c")}, "give either --model.path (a folder or a hub id) or --run_dir"),
        ({"run_dir": "r"}, "give either --model.path (a folder or a hub id) or --run_dir"),
        ({"model": ModelConfig(config="c"), "run_dir": "r"}, "--model.config=c: has no weights; leave it out"),
        (
            {"model": None, "run_dir": "r", "param_dtype": "float32"},
            "--param_dtype=float32: has no effect with --run_dir=r",
        ),
        ({"temperature": 0.5}, "--temperature=0.5: has no effect without --do_sample=true"),
        ({"chat": "yes"}, "--chat=yes: expected bool or one of auto"),
        ({"chat_date": "today"}, "--chat_date=today: must be a day such as 2026-01-31"),
        ({"batch_size": 0}, "--batch_size=0: must be positive"),
    ],
)
def test_what_cannot_be_answered_is_refused(changes, message):
    with pytest.raises(Refused) as refusal:
        make(**changes)
    assert message in str(refusal.value)


def test_sampling_is_its_part_of_the_settings():
    assert make(do_sample=True, top_k=3, max_new_tokens=5).sampling == SamplingConfig(
        do_sample=True, top_k=3, max_new_tokens=5
    )
