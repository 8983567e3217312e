"""Tokenizing pairs by the rules of a run, all texts of a batch in one call of the tokenizer."""

from collections.abc import Iterator, Sequence

from oddsmill.pipeline.config import DatasetSettings
from oddsmill.pipeline.formats.pairs import ChatPair, Pair, PairIds, PreferencePair, TokenizedPairs
from oddsmill.pipeline.formats.rows import check_encodable
from oddsmill.pipeline.tokens.differences import note_differences
from oddsmill.pipeline.tokens.encoding import Encoded, EncodedTexts, Sides, encode_sides
from oddsmill.pipeline.tokens.rendering import Rendered
from oddsmill.pipeline.tokens.text_rules import TextRules
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.drops import Dropped, drop_of
from oddsmill.schemas.engines.checked import is_of_library
from oddsmill.schemas.errors import RunFailed


def tokenize_batch(
    pairs: Sequence[Pair], tokenizer: Tokenizer, rules: TextRules, config: DatasetSettings
) -> TokenizedPairs:
    """Makes the ids of pairs. One call encodes all their texts, which the tokenizer spreads over the cores.

    Raises:
      Refused: a pair holds messages and the tokenizer has no chat template.
    """
    rendered = [_render(pair, tokenizer, rules, config) for pair in pairs]
    made: dict[int, PairIds | Dropped] = {n: each for n, each in enumerate(rendered) if isinstance(each, Dropped)}
    texts = {number: each for number, each in enumerate(rendered) if isinstance(each, Rendered)}
    encoded = _encode([each.texts for each in texts.values()], tokenizer)
    plain = TokenizedPairs.of({})
    if rules.tokenize_plain is not None and isinstance(encoded, EncodedTexts):
        plain = rules.tokenize_plain(pairs, texts, encoded, tokenizer, config)
    done = frozenset(plain.numbers.tolist())
    for line, (number, of_pair) in enumerate(texts.items()):
        if number not in done:
            made[number] = _make_ids(pairs[number], of_pair, encoded[line], tokenizer, rules, config)
    return plain + TokenizedPairs.of(made)


def encode_pairs(
    pairs: Sequence[Pair], tokenizer: Tokenizer, rules: TextRules, config: DatasetSettings
) -> Iterator[Encoded | Dropped]:
    """Renders and encodes pairs: the costly half of `tokenize_batch`, in which no length setting has a part.

    Raises:
      Refused: as `tokenize_batch`.
    """
    rendered = [_render(pair, tokenizer, rules, config) for pair in pairs]
    encoded = iter(_encode([each.texts for each in rendered if isinstance(each, Rendered)], tokenizer))
    for pair, texts in zip(pairs, rendered, strict=True):
        if isinstance(texts, Dropped):
            yield texts
            continue
        sides = next(encoded)
        yield sides if isinstance(sides, Dropped) else Encoded(pair, texts, *sides)


def _make_ids(
    pair: Pair,
    rendered: Rendered,
    sides: Sides | Dropped,
    tokenizer: Tokenizer,
    rules: TextRules,
    config: DatasetSettings,
) -> PairIds | Dropped:
    try:
        if isinstance(sides, Dropped):
            return sides
        ids = rules.make_ids(Encoded(pair, rendered, *sides), tokenizer, config)
    except Dropped as dropped:
        return dropped
    for notes in (rendered.notes, note_differences(rendered.texts)):
        if notes:
            ids = ids._replace(notes=ids.notes | notes)
    return ids


def _encode(texts: list[PreferencePair], tokenizer: Tokenizer) -> Sequence[Sides | Dropped]:
    """Encodes the texts of pairs together; where that fails, each pair by itself, so that only the guilty are lost."""
    try:
        return encode_sides(texts, tokenizer)
    except BaseException as error:
        if isinstance(error, RunFailed) or not is_of_library(error):  # a wrong engine may be right a second time
            raise
        if len(texts) == 1:
            return [drop_of(error)]
        return [ids for pair in texts for ids in _encode([pair], tokenizer)]


def _render(pair: Pair, tokenizer: Tokenizer, rules: TextRules, config: DatasetSettings) -> Rendered | Dropped:
    try:
        rendered = rules.render(pair, tokenizer.chat_template, config)
        if isinstance(pair, ChatPair):  # a template may write what no row holds
            for name, text in zip(rendered.texts._fields, rendered.texts, strict=True):
                check_encodable(f"{name} as rendered", text)
        return rendered
    except Dropped as dropped:
        return dropped
