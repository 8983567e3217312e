import pickle

import pytest

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.tokens.text_rules import OURS, TRL, choose_rules


@pytest.mark.parametrize(("compat", "rules"), [(None, OURS), ("trl", TRL)])
def test_compat_picks_the_rules_and_a_worker_gets_the_same(compat, rules):
    config = PreprocessConfig(source=SourceConfig(path="a"), tokenizer="t", output="o", compat=compat)
    assert choose_rules(config) == rules == pickle.loads(pickle.dumps(rules))
    assert OURS != TRL and TRL.make_ids is not OURS.make_ids
