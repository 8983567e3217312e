import pickle

import pytest

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.formats.pairs import ChatPair
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.pipeline.tokens.text_rules import OURS, TRL, choose_rules
from oddsmill.schemas.drops import Origin
from oddsmill.schemas.errors import Refused


@pytest.mark.parametrize(("compat", "rules"), [(None, OURS), ("trl", TRL)])
def test_compat_picks_the_rules_and_a_worker_gets_the_same(compat, rules):
    config = PreprocessConfig(source=SourceConfig(path="a"), tokenizer="t", output="o", compat=compat)
    assert choose_rules(config) == rules == pickle.loads(pickle.dumps(rules))
    assert OURS != TRL and TRL.make_ids is not OURS.make_ids


def test_chat_makes_dialogues_of_texts_also_on_a_worker():
    source = SourceConfig(path="a", format="triple")
    config = PreprocessConfig(source=source, tokenizer="t", output="o", chat=True)
    row = RawRow(Origin(0, 0), {"prompt": "q", "chosen": "a", "rejected": "b"})
    for rules in (choose_rules(config), pickle.loads(pickle.dumps(choose_rules(config)))):
        assert isinstance(rules.parse_row(row, source=source)[0], ChatPair)
    with pytest.raises(Refused, match="--chat=True"):
        PreprocessConfig(source=source, tokenizer="t", output="o", chat=True, compat="trl")
