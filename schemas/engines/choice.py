"""The choice of the engine that encodes a run: fastokens where it gives the ids of `tokenizers`, else that."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Literal, NamedTuple, Protocol

from oddsmill.schemas.engines.byte_sums import sum_differs
from oddsmill.schemas.engines.checked import Reference, describe_difference, is_of_library
from oddsmill.schemas.engines.fast import FastEngine, Unusable
from oddsmill.schemas.engines.flat import FlatIds
from oddsmill.schemas.engines.probes import probe_texts
from oddsmill.schemas.errors import Refused, one_line

EngineName = Literal["tokenizers", "fastokens"]
EngineSetting = Literal["auto", "tokenizers", "fastokens"]
_PREFIXES = ("", " ")  # what byte-level tokenizers and SentencePiece write before a text
_MAY_DIFFER = 0.02  # a greater share of texts whose byte sums differ costs more than the check is worth


class EngineChoice(NamedTuple):
    """The engine of a run, as its workers take it.

    Attributes:
      reason: why it is not fastokens, where that was left open; else empty.
      prefix: what `CheckedEngine` takes.
      libraries: the version of fastokens, if it encodes: the workers need the one that was compared.
    """

    name: EngineName
    reason: str = ""
    prefix: str | None = None
    libraries: dict[str, str] = {}  # noqa: RUF012

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}" if self.reason else self.name


TOKENIZERS = EngineChoice("tokenizers")


class Encoder(Reference, Protocol):
    """A tokenizer of the `tokenizers` library, with its files."""

    content: bytes

    @property
    def added_tokens(self) -> Sequence[str]: ...


def choose_engine(tokenizer: Encoder, setting: EngineSetting, texts: Sequence[str]) -> EngineChoice:
    """Chooses the engine.

    Args:
      texts: some of the run's, on which both engines are compared too.

    Raises:
      Refused: fastokens is asked for and cannot be used.
    """
    if setting == "tokenizers":
        return TOKENIZERS
    try:
        prefix = find_prefix(FastEngine(tokenizer.content), tokenizer, texts)
        return EngineChoice("fastokens", prefix=prefix, libraries={"fastokens": version("fastokens")})
    except Unusable as unusable:
        reason = f"fastokens {unusable}"
    if setting == "fastokens":
        raise Refused(f"--tokenizer_engine=fastokens: {reason}; leave it out, and tokenizers encodes")
    return EngineChoice("tokenizers", reason)


def find_prefix(engine: FastEngine, reference: Encoder, texts: Sequence[str]) -> str | None:
    """Compares an engine with the reference, and finds out whether byte sums check it.

    Returns: the prefix with which the byte sums of nearly all texts of the run are those of their ids; None where there
      is none.

    Raises:
      Unusable: the engine gives other ids for a text, or the reference gives none.
    """
    for each in (probe_texts(reference.added_tokens), texts):
        flat = _compared(engine, reference, each)
    return next(
        (p for p in _PREFIXES if len(sum_differs(texts, flat, engine.sums, p)) <= _MAY_DIFFER * len(texts)), None
    )


def _compared(engine: FastEngine, reference: Reference, texts: Sequence[str]) -> FlatIds:
    try:
        flat = engine.encode_flat(texts)
        all_expected = reference.encode_batch(texts)
    except BaseException as error:
        if not is_of_library(error):
            raise
        raise Unusable(f"and tokenizers cannot be compared ({one_line(error)})") from error
    for number, (text, expected) in enumerate(zip(texts, all_expected, strict=True)):
        if (found := flat.of(number)) != expected:
            difference = describe_difference(text, found, expected, reference)
            raise Unusable(difference.removeprefix("fastokens "))
    return flat
