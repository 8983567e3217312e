"""Our rules for many pairs at once: columns of numbers, a line a pair, in place of an array for each of their texts.

The rules stand in pipeline/tokens/our_rules.py and length_rules.py, for one pair. Here is what can be said of them by
the lengths of a pair's texts. The pairs that are left out, a few of a hundred, go that way: those that are dropped, or
may be, dialogues whose prompt is too long, answers of several turns, and giants.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from oddsmill.pipeline.config import DatasetSettings
from oddsmill.pipeline.formats.pairs import ChatPair, Notes, Pair, TokenizedPairs
from oddsmill.pipeline.tokens.differences import are_written_alike, note_differences
from oddsmill.pipeline.tokens.encoding import EncodedTexts
from oddsmill.pipeline.tokens.our_rules import lacks_eos
from oddsmill.pipeline.tokens.rendering import Rendered
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.record import Truncated

_LONGEST_TAIL = 1 << 14  # tokens; comparing them takes five times their memory


class _Part(NamedTuple):
    """A part of the ids of each pair: where it begins in the ids of all texts, and its length, [n] int64."""

    starts: np.ndarray
    sizes: np.ndarray

    def without_first(self, count: np.ndarray) -> "_Part":
        return _Part(self.starts + count, self.sizes - count)


def tokenize_plain(
    pairs: Sequence[Pair],
    rendered: Mapping[int, Rendered],
    encoded: EncodedTexts,
    tokenizer: Tokenizer,
    config: DatasetSettings,
) -> TokenizedPairs:
    """Makes the ids of the pairs of a batch as `our_rules.make_ids` does, but for those that are left out here.

    Args:
      rendered: the texts of n pairs of the batch, by their numbers.
      encoded: the ids of these.
    """
    numbers, texts = list(rendered), list(rendered.values())
    special_ids = [-1 if tokenizer.bos_id is None else tokenizer.bos_id, tokenizer.eos_id]
    ids = np.concatenate([np.frombuffer(encoded.ids, np.int32), np.array(special_ids, np.int32)])
    bos, eos = (np.full(len(texts), len(encoded.ids) + place) for place in range(2))
    head, tail, *answers = map(_Part, encoded.starts.T, encoded.lengths.T)
    is_chat = np.array([isinstance(pairs[number], ChatPair) for number in numbers], bool)

    # The boundary: the answers begin where the three encodings part.
    is_plain = np.array([not (each.own or are_written_alike(each.texts)) for each in texts], bool)
    is_plain &= tail.sizes <= _LONGEST_TAIL
    tail = tail._replace(sizes=np.where(is_plain, tail.sizes, 0))
    size = np.minimum(*(_common_lengths(ids, tail, answer) for answer in answers))
    merged, tail = size < tail.sizes, tail._replace(sizes=size)
    answers = [answer.without_first(size) for answer in answers]
    ends = []
    for starts, sizes in answers:
        is_plain &= sizes > 0
        bounds = zip(starts.tolist(), (starts + sizes).tolist(), strict=True)
        ends.append(np.array([lacks_eos(encoded.ids, begin, end, tokenizer) for begin, end in bounds], bool))

    # BOS and EOS, and the lengths with them.
    begins_with_bos = ids[np.where(head.sizes > 0, head.starts, tail.starts)] == special_ids[0]
    adds_bos = ~(is_chat | begins_with_bos) & tokenizer.adds_bos
    whole = [adds_bos + head.sizes + tail.sizes, *(part.sizes + end for part, end in zip(answers, ends, strict=True))]

    # The length rules, as `length_rules.fit`.
    limit = config.max_completion_length or config.max_length
    chosen, rejected = (np.minimum(length, limit) for length in whole[1:])
    prompt = np.minimum(whole[0], np.maximum(config.max_length - np.maximum(chosen, rejected), config.prompt_floor))
    room = config.max_length - prompt
    lengths = [prompt, np.minimum(chosen, room), np.minimum(rejected, room)]
    cuts = [length < before for length, before in zip(lengths, whole, strict=True)]
    is_plain &= (
        (prompt > adds_bos)
        & ~(cuts[0] & (is_chat | begins_with_bos))
        & (lengths[1] != lengths[2])  # answers of one length may be the same, and have it where there is no room
        & (sum(lengths) <= config.slots)
        & (~np.logical_or.reduce(cuts) | (config.overlong == "truncate"))
    )
    head, tail = _cut_prompt(head, tail, whole[0] - prompt, config)
    parts = [_Part(bos, adds_bos), head, tail]
    for answer, length in zip(answers, lengths[1:], strict=True):
        kept = np.minimum(answer.sizes, length)
        parts += [answer._replace(sizes=kept), _Part(eos, length - kept)]

    lines = np.flatnonzero(is_plain)
    plain = [texts[line] for line in lines.tolist()]
    notes = np.array([int(each.notes) | int(note_differences(each.texts)) for each in plain], np.int64)
    flags = (Truncated.PROMPT, Truncated.CHOSEN, Truncated.REJECTED)
    truncated = sum(cut * np.uint8(flag) for cut, flag in zip(cuts, flags, strict=True))
    starts, sizes = (np.stack(each, axis=1)[lines] for each in zip(*parts, strict=True))
    return TokenizedPairs(
        numbers=np.array(numbers, np.int64)[lines],
        ids=_gathered(ids, starts, sizes),
        lengths=np.stack(lengths, axis=1)[lines],
        truncated=truncated[lines],
        notes=notes | merged[lines] * int(Notes.BOUNDARY_MERGED),
    )


def _cut_prompt(head: _Part, tail: _Part, excess: np.ndarray, config: DatasetSettings) -> tuple[_Part, _Part]:
    """Takes tokens from the side of a prompt that is cut."""
    if config.truncation_side == "keep_end":
        of_head = np.minimum(excess, head.sizes)
        return head.without_first(of_head), tail.without_first(excess - of_head)
    of_tail = np.minimum(excess, tail.sizes)
    return head._replace(sizes=head.sizes - (excess - of_tail)), tail._replace(sizes=tail.sizes - of_tail)


def _common_lengths(ids: np.ndarray, first: _Part, second: _Part) -> np.ndarray:
    """Returns how many ids at their beginnings two parts have in common, [n] int64."""
    sizes = np.minimum(first.sizes, second.sizes)
    differ = _gathered(ids, first.starts, sizes) != _gathered(ids, second.starts, sizes)
    begins = np.cumsum(sizes) - sizes
    places = np.append(np.flatnonzero(differ), len(differ))
    next_places = places[np.searchsorted(places, begins)]  # it may be that of a later pair
    return np.minimum(next_places - begins, sizes)


def _gathered(values: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Returns `values[start:start + size]` of all starts, one after another."""
    starts, sizes = starts.ravel(), sizes.ravel()
    ends = np.cumsum(sizes)
    places = np.repeat(starts - ends + sizes, sizes)
    places += np.arange(len(places))
    return values[places]
