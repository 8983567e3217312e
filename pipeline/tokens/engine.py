"""The choice of the tokenizer engine for a run, on texts of its own rows."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from oddsmill.pipeline.config import DatasetSettings
from oddsmill.pipeline.formats.pairs import Pair
from oddsmill.pipeline.tokens.text_rules import TextRules
from oddsmill.schemas.chat.tokenizer import TOKENIZER_JSON, Tokenizer
from oddsmill.schemas.drops import Dropped
from oddsmill.schemas.engines.choice import EngineChoice, choose_engine

_CHARACTERS_COMPARED = 200_000  # a tenth of a second of tokenizers; workers compare more texts, each its first ones
_WORTH = 0.5  # bytes of text for a byte of tokenizer.json, below which fastokens takes longer to load than it saves


def choose_for_run(
    pairs: Sequence[Pair], tokenizer: Tokenizer, rules: TextRules, config: DatasetSettings, *, text_bytes: int
) -> EngineChoice:
    """Chooses what encodes a run.

    Args:
      pairs: some of the run's.
      text_bytes: about how many the run has.

    Raises:
      Refused: `tokenizer_engine` names one that cannot be used.
    """
    if config.tokenizer_engine == "auto" and not _is_worth(text_bytes, len(tokenizer.content)):
        return EngineChoice("tokenizers", "the input is so small that loading fastokens takes longer than it saves")
    texts, characters = [], 0
    for text in _texts(pairs, tokenizer, rules, config) if config.tokenizer_engine != "tokenizers" else ():
        texts.append(text[:_CHARACTERS_COMPARED])  # of a longer one the engines take pieces
        characters += len(text)
        if characters > _CHARACTERS_COMPARED:
            break
    return choose_engine(tokenizer, config.tokenizer_engine, texts)


def file_of_fastokens(config: DatasetSettings, folder: Path, *, text_bytes: int) -> Path | None:
    """Returns the file that fastokens will load for a run, so that it can begin to; None where the run takes no such.

    Args:
      folder: that of the tokenizer.
      text_bytes: about how many the run has.
    """
    file = folder / TOKENIZER_JSON
    wanted = config.tokenizer_engine != "tokenizers" and file.is_file()
    if wanted and (config.tokenizer_engine == "fastokens" or _is_worth(text_bytes, file.stat().st_size)):
        return file
    return None


def _is_worth(text_bytes: int, tokenizer_bytes: int) -> bool:
    return text_bytes >= _WORTH * tokenizer_bytes


def _texts(pairs: Sequence[Pair], tokenizer: Tokenizer, rules: TextRules, config: DatasetSettings) -> Iterator[str]:
    for pair in pairs:
        with suppress(Dropped, UnicodeEncodeError):  # a template may write what no text can hold
            prompt, chosen, rejected = rules.render(pair, tokenizer.chat_template, config).texts
            f"{prompt}{chosen}{rejected}".encode()
            yield from (prompt, prompt + chosen, prompt + rejected)
