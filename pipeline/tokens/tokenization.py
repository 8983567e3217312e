"""Tokenizing pairs by the rules of a run, all texts of a batch in one call of the tokenizer."""

from collections.abc import Iterator, Sequence

from oddsmill.pipeline.config import DatasetSettings
from oddsmill.pipeline.formats.pairs import ChatPair, Pair, PairIds, PreferencePair
from oddsmill.pipeline.formats.rows import check_encodable
from oddsmill.pipeline.tokens.differences import note_differences
from oddsmill.pipeline.tokens.encoding import Encoded, Sides, encode_sides
from oddsmill.pipeline.tokens.rendering import Rendered
from oddsmill.pipeline.tokens.text_rules import TextRules
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.drops import Dropped, drop_of
from oddsmill.schemas.errors import RunFailed


def tokenize_batch(
    pairs: Sequence[Pair], tokenizer: Tokenizer, rules: TextRules, config: DatasetSettings
) -> Iterator[PairIds | Dropped]:
    """Makes the ids of pairs. One call encodes all their texts, which the tokenizer spreads over the cores.

    Raises:
      Refused: a pair holds messages and the tokenizer has no chat template.
    """
    for encoded in encode_pairs(pairs, tokenizer, rules, config):
        if isinstance(encoded, Dropped):
            yield encoded
            continue
        try:
            ids = rules.make_ids(encoded, tokenizer, config)
        except Dropped as dropped:
            yield dropped
            continue
        for notes in (encoded.rendered.notes, note_differences(encoded.rendered.texts)):
            if notes:
                ids = ids._replace(notes=ids.notes | notes)
        yield ids


def encode_pairs(
    pairs: Sequence[Pair], tokenizer: Tokenizer, rules: TextRules, config: DatasetSettings
) -> Iterator[Encoded | Dropped]:
    """Renders and encodes pairs: the costly half of `tokenize_batch`, in which no length setting has a part.

    Raises:
      Refused: as `tokenize_batch`.
    """
    rendered = [_render(pair, tokenizer, rules, config) for pair in pairs]
    texts = [pair.texts for pair in rendered if isinstance(pair, Rendered)]
    encoded = iter(_encode(texts, tokenizer))
    for pair, texts_of_pair in zip(pairs, rendered, strict=True):
        if isinstance(texts_of_pair, Dropped):
            yield texts_of_pair
            continue
        ids = next(encoded)
        yield ids if isinstance(ids, Dropped) else Encoded(pair, texts_of_pair, *ids)


def _encode(texts: list[PreferencePair], tokenizer: Tokenizer) -> Sequence[Sides | Dropped]:
    """Encodes the texts of pairs together; where that fails, each pair by itself, so that only the guilty are lost."""
    try:
        return list(encode_sides(texts, tokenizer))
    except BaseException as error:
        # A panic of the tokenizer's Rust code is no `Exception`.
        of_a_text = isinstance(error, Exception) or type(error).__name__ == "PanicException"
        if isinstance(error, RunFailed) or not of_a_text:  # a wrong engine may be right a second time
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
