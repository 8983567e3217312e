"""The two sets of rules that make token ids of rows, ours and TRL's. Each is a record of functions; a run picks one."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from oddsmill.pipeline.config import DatasetSettings, SourceConfig
from oddsmill.pipeline.formats import detection, parsing
from oddsmill.pipeline.formats.detection import ParseRow
from oddsmill.pipeline.formats.pairs import Pair, PairIds, TokenizedPairs
from oddsmill.pipeline.tokens import our_rules, plain_pairs, rendering, trl_rules
from oddsmill.pipeline.tokens.encoding import Encoded, EncodedTexts, Explanation, LengthStep
from oddsmill.pipeline.tokens.rendering import Render, Rendered
from oddsmill.schemas.chat.tokenizer import Tokenizer

TokenizePlain = Callable[
    [Sequence[Pair], Mapping[int, Rendered], EncodedTexts, Tokenizer, DatasetSettings], TokenizedPairs
]


class TextRules(NamedTuple):
    """The functions that take a row to the ids of its pairs. Those that drop a row raise `Dropped`.

    Attributes:
      check_source: refuses an unknown format, and settings of the source that its format does not use.
      parse_row: makes the pairs of a row.
      render: makes the texts of a pair.
      make_ids: makes the ids of a pair whose texts are encoded.
      tokenize_plain: makes the ids of many pairs at once as `make_ids` does, of those that it can; it may be None.
      explain_boundary: says where `make_ids` ends the prompt, and gives the ids before the length rules.
      explain_lengths: lists the lengths of a pair before and after each length rule.
      cuts_prompts: `max_prompt_length` has an effect.
    """

    check_source: Callable[[SourceConfig], None]
    parse_row: ParseRow
    render: Render
    make_ids: Callable[[Encoded, Tokenizer, DatasetSettings], PairIds]
    tokenize_plain: TokenizePlain | None
    explain_boundary: Callable[[Encoded, Tokenizer], Explanation]
    explain_lengths: Callable[[PairIds, PairIds, DatasetSettings], list[LengthStep]]
    cuts_prompts: bool


OURS = TextRules(
    check_source=detection.check_source,
    parse_row=parsing.parse_row,
    render=rendering.render_pair,
    make_ids=our_rules.make_ids,
    tokenize_plain=plain_pairs.tokenize_plain,
    explain_boundary=our_rules.explain_boundary,
    explain_lengths=our_rules.explain_lengths,
    cuts_prompts=True,
)
TRL = TextRules(
    check_source=trl_rules.check_source,
    parse_row=trl_rules.parse_row,
    render=trl_rules.render,
    make_ids=trl_rules.make_ids,
    tokenize_plain=None,
    explain_boundary=trl_rules.explain_boundary,
    explain_lengths=trl_rules.explain_lengths,
    cuts_prompts=False,
)


def choose_rules(config: DatasetSettings) -> TextRules:
    """Returns the rules that `compat` asks for."""
    if config.compat == "trl":
        return TRL
    return OURS._replace(parse_row=partial(parsing.parse_row, chat=True)) if config.chat else OURS
