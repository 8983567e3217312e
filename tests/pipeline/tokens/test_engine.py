from dataclasses import replace
from pathlib import Path

from oddsmill.pipeline.config import PreprocessConfig, SourceConfig
from oddsmill.pipeline.formats.pairs import PreferencePair
from oddsmill.pipeline.tokens.engine import choose_for_run, file_of_fastokens
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
    choose_for_run(PAIRS, tokenizer, choose_rules(config), config, text_bytes=10**6)
    choose_for_run(PAIRS[:1] * 90_000, tokenizer, choose_rules(config), config, text_bytes=10**6)
    choose_for_run([PreferencePair("a " * 10**6, "", "")], tokenizer, choose_rules(config), config, text_bytes=10**6)
    config = replace(config, tokenizer_engine="tokenizers")
    choose_for_run(PAIRS, tokenizer, choose_rules(config), config, text_bytes=10**6)
    (auto, texts), (_, many), (_, (long,)), asked = seen
    assert long == "a " * 100_000
    assert auto == "auto" and texts == ["What?", "What? This.", "What? That."]
    assert 200_000 < sum(map(len, many)) < 200_020
    assert asked == ["tokenizers", []]


def test_a_small_input_is_not_worth_loading_another_library(tokenizer_folder: Path):
    config, tokenizer = (
        PreprocessConfig(source=SourceConfig(path="-"), tokenizer="-", output="-"),
        Tokenizer(tokenizer_folder),
    )
    size = len(tokenizer.content)
    for setting, text_bytes, name in [
        ("auto", size // 3, "tokenizers"),
        ("auto", size, "fastokens"),
        ("fastokens", 0, "fastokens"),
    ]:
        asked = replace(config, tokenizer_engine=setting)
        file = file_of_fastokens(asked, tokenizer_folder, text_bytes=text_bytes)
        assert file == (tokenizer_folder / "tokenizer.json" if name == "fastokens" else None)
        chosen = choose_for_run(PAIRS[:1], tokenizer, choose_rules(config), asked, text_bytes=text_bytes)
        assert chosen.name == name and ("so small" in chosen.reason) == (name == "tokenizers")
    assert file_of_fastokens(replace(config, tokenizer_engine="tokenizers"), tokenizer_folder, text_bytes=size) is None
    assert file_of_fastokens(config, tokenizer_folder / "none", text_bytes=size) is None
