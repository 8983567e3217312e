from dataclasses import replace
from pathlib import Path

from oddsmill.pipeline.config import PreprocessConfig, SourceConfig
from oddsmill.pipeline.formats.pairs import PreferencePair
from oddsmill.pipeline.tokens.engine import choose_for_run
from oddsmill.pipeline.tokens.text_rules import choose_rules
from oddsmill.schemas.chat.tokenizer import Tokenizer

PAIRS = [PreferencePair("What?", " This.", " That."), PreferencePair("\ud800", " no text", " can hold it")]


def test_the_texts_of_pairs_are_what_engines_are_compared_on(tmp_path: Path, make_tokenizer, monkeypatch):
    seen: list[list[str]] = []
    monkeypatch.setattr(
        "oddsmill.pipeline.tokens.engine.choose_engine", lambda tokenizer, setting, texts: seen.append([setting, texts])
    )
    config = PreprocessConfig(source=SourceConfig(path="-"), tokenizer="-", output="-")
    tokenizer = Tokenizer(make_tokenizer(tmp_path))
    choose_for_run(PAIRS, tokenizer, choose_rules(config), config)
    choose_for_run(PAIRS[:1] * 90_000, tokenizer, choose_rules(config), config)
    config = replace(config, tokenizer_engine="tokenizers")
    choose_for_run(PAIRS, tokenizer, choose_rules(config), config)
    (auto, texts), (_, many), asked = seen
    assert auto == "auto" and texts == ["What?", "What? This.", "What? That."]
    assert 500_000 < sum(map(len, many)) < 500_020
    assert asked == ["tokenizers", []]
