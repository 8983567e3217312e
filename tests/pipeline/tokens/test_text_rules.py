from typing import Any

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.tokens.text_rules import OURS, TRL, choose_rules


def config(**changes: Any) -> PreprocessConfig:
    return PreprocessConfig(source=SourceConfig(path="a"), tokenizer="t", output="o", **changes)


def test_compat_alone_chooses_the_rules():
    assert choose_rules(config()) is OURS
    assert choose_rules(config(compat="trl")) is TRL


def test_the_two_sets_share_no_function():
    """A function in both would be a rule that is not TRL's, or is not ours."""
    shared = [name for name in OURS._fields if getattr(OURS, name) is getattr(TRL, name)]
    assert not shared
