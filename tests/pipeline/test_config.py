from typing import Any

import pytest

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.schemas.errors import Refused


def make(**changes: Any) -> PreprocessConfig:
    return PreprocessConfig(**{"source": SourceConfig(path="a"), "tokenizer": "t", "output": "o"} | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_length": 1}, "--max_length=1: must hold a prompt and an answer"),
        ({"max_prompt_length": 0}, "--max_prompt_length=0: must be at least 1"),
        ({"max_completion_length": 0}, "--max_completion_length=0: must be at least 1"),
        ({"num_shards": 0}, "--num_shards=0: must be at least 1"),
        ({"row_length": 1023}, r"--row_length=1023: must be at least max_length \(1024\); 2048 holds every pair"),
        ({"eval_share": 1.5}, "--eval_share=1.5: must be between 0 and 1"),
        ({"max_drop_share": -0.1}, "--max_drop_share=-0.1: must be between 0 and 1"),
        ({"seed": -1}, "--seed=-1: must be between 0"),
        ({"truncation_side": "left"}, "--truncation_side=left: expected one of keep_end, keep_start"),
        ({"shuffle": False}, "--shuffle=False: .* add --eval_share=0"),
        ({"shuffle": False, "eval_share": 0.0, "num_shards": 2}, "--shuffle=False: .* leave out --num_shards"),
        ({"tokenizer": ""}, "--tokenizer=: give a folder or a hub id"),
    ],
)
def test_a_value_that_cannot_take_effect_is_refused(changes: dict[str, Any], message: str):
    with pytest.raises(Refused, match=message):
        make(**changes)


@pytest.mark.parametrize("changes", [{"path": ""}, {"path": []}, {"path": "a", "fields": {"question": "prompt"}}])
def test_a_source_that_names_nothing_is_refused(changes: dict[str, Any]):
    with pytest.raises(Refused, match=r"--source\."):
        SourceConfig(**changes)


def test_a_row_holds_the_longest_pair_by_default():
    assert make(max_length=100).slots == 200
    assert make(max_length=100, row_length=150).slots == 150
