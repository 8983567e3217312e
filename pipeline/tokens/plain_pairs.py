"""The ids of plain pairs, many at once: those for which our rules cut, merge and drop nothing, as most are.

The rules stand in pipeline/tokens/our_rules.py. Which pairs are plain is told by columns of numbers, a line a pair, and
their ids are gathered from those of their texts without an array for each.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from oddsmill.pipeline.config import DatasetSettings
from oddsmill.pipeline.formats.pairs import ChatPair, Pair, TokenizedPairs
from oddsmill.pipeline.tokens.differences import are_written_alike, note_differences
from oddsmill.pipeline.tokens.encoding import EncodedTexts
from oddsmill.pipeline.tokens.our_rules import lacks_eos
from oddsmill.pipeline.tokens.rendering import Rendered
from oddsmill.schemas.chat.tokenizer import Tokenizer


def tokenize_plain(
    pairs: Sequence[Pair],
    rendered: Mapping[int, Rendered],
    encoded: EncodedTexts,
    tokenizer: Tokenizer,
    config: DatasetSettings,
) -> TokenizedPairs:
    """Makes the ids of those pairs of a batch that are plain; each is as `our_rules.make_ids` makes it.

    Args:
      rendered: the texts of n pairs of the batch, by their numbers.
      encoded: the ids of these.
    """
    numbers, texts = list(rendered), list(rendered.values())
    special_ids = [0 if tokenizer.bos_id is None else tokenizer.bos_id, tokenizer.eos_id]
    ids = np.concatenate([np.frombuffer(encoded.ids, np.int32), np.array(special_ids, np.int32)])
    bos, eos = len(ids) - 2, len(ids) - 1  # where they stand
    (heads, tails, *answers), (head_sizes, tail_sizes, *sizes) = encoded.starts.T, encoded.lengths.T
    is_chat = np.array([isinstance(pairs[number], ChatPair) for number in numbers], bool)
    first_ids = ids[np.where(head_sizes > 0, heads, tails)]
    adds_bos = ~is_chat & tokenizer.adds_bos & (first_ids != special_ids[0])
    prompt_sizes = head_sizes + tail_sizes
    is_plain = np.array([not (each.own or are_written_alike(each.texts)) for each in texts], bool) & (prompt_sizes > 0)
    pieces = [(np.full(len(texts), bos), adds_bos), (heads, head_sizes), (tails, tail_sizes)]
    lengths = [prompt_sizes + adds_bos]
    for starts, with_tail in zip(answers, sizes, strict=True):
        is_plain &= (with_tail > tail_sizes) & _are_same(ids, tails, starts, np.minimum(tail_sizes, with_tail))
        begins, ends = starts + tail_sizes, starts + with_tail
        bounds = zip(begins.tolist(), ends.tolist(), strict=True)
        adds_eos = np.array([lacks_eos(encoded.ids, begin, end, tokenizer) for begin, end in bounds], bool)
        pieces += [(begins, with_tail - tail_sizes), (np.full(len(texts), eos), adds_eos)]
        lengths.append(with_tail - tail_sizes + adds_eos)
    prompts, chosen, rejected = lengths
    longer = np.maximum(chosen, rejected)
    is_plain &= (
        (chosen != rejected)  # those of a length may be the same
        & (prompts + longer <= config.max_length)
        & (longer <= (config.max_completion_length or config.max_length))
        & (prompts + chosen + rejected <= config.slots)
    )
    lines = np.flatnonzero(is_plain)
    first_of_pieces, sizes_of_pieces = (np.stack(each, axis=1)[lines] for each in zip(*pieces, strict=True))
    plain = [texts[line] for line in lines.tolist()]
    return TokenizedPairs(
        numbers=np.array(numbers, np.int64)[lines],
        ids=_gathered(ids, first_of_pieces, sizes_of_pieces),
        lengths=np.stack(lengths, axis=1)[lines],
        truncated=np.zeros(len(lines), np.uint8),
        notes=np.array([int(each.notes) | int(note_differences(each.texts)) for each in plain], np.int64),
    )


def _are_same(ids: np.ndarray, firsts: np.ndarray, seconds: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Tells whether `ids[first:first + size]` and `ids[second:second + size]` are the same, [n] bool."""
    differ = _gathered(ids, firsts, sizes) != _gathered(ids, seconds, sizes)
    return np.bincount(np.repeat(np.arange(len(sizes)), sizes)[differ], minlength=len(sizes)) == 0


def _gathered(values: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Returns `values[start:start + size]` of all starts, one after another."""
    starts, sizes = starts.ravel(), sizes.ravel()
    ends = np.cumsum(sizes)
    places = np.repeat(starts - ends + sizes, sizes)
    places += np.arange(len(places))
    return values[places]
