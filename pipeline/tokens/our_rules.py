"""Our rules from a pair's encodings to its ids: the boundary, BOS and EOS, the lengths. Pure functions.

In this order: the prompt's ids are those that prompt, prompt + chosen and prompt + rejected have in common; BOS stands
once at the head of a text, where the tokenizer adds it; EOS once at the end of each answer; then the length rules apply
(pipeline/tokens/length_rules.py).
"""

from array import array
from functools import partial

from oddsmill.pipeline.config import DatasetSettings
from oddsmill.pipeline.formats.pairs import ChatPair, Ids, Message, Notes, PairIds
from oddsmill.pipeline.tokens.answer_turns import OwnText, unscored_spans
from oddsmill.pipeline.tokens.differences import are_written_alike, common_length
from oddsmill.pipeline.tokens.encoding import (
    Encoded,
    Explanation,
    LengthStep,
    Sides,
    cut_of,
    encode_sides,
    token_ends,
    token_starts,
)
from oddsmill.pipeline.tokens.length_rules import fit, prompt_fits, shorten_dialogue
from oddsmill.pipeline.tokens.rendering import Rendered, needed, render_messages, template_options
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.drops import Dropped, DropReason, dropping_errors


@dropping_errors
def make_ids(encoded: Encoded, tokenizer: Tokenizer, config: DatasetSettings) -> PairIds:
    """Makes the ids of a pair.

    Answers whose ids are equal, or whose texts are in all but their form of Unicode, give no preference: a drop.

    Raises:
      Dropped: with the reason why there are none.
    """
    if are_written_alike(encoded.rendered.texts):
        raise Dropped(DropReason.IDENTICAL_ANSWERS, "chosen and rejected are the same text in two forms of Unicode")
    ids = _split(encoded.sides, encoded.rendered, tokenizer, is_chat=isinstance(encoded.pair, ChatPair))
    if isinstance(encoded.pair, ChatPair):
        ids = _shorten(encoded.pair, ids, tokenizer, config)
    fitted = fit(ids, config, bos_id=tokenizer.bos_id)
    if fitted.chosen == fitted.rejected:
        raise Dropped(DropReason.IDENTICAL_ANSWERS, _say_since_when(ids, len(fitted.chosen), config))
    return fitted


def split_at_boundary(prompt: Ids, with_chosen: Ids, with_rejected: Ids, *, has_bos: bool) -> PairIds:
    """Splits the ids of prompt + answer where the three encodings part.

    Both sides share the prompt by construction, and prompt + answer decodes to the whole text.

    Raises:
      Dropped: an answer is left with no token, or the prompt is and no BOS will stand for it.
    """
    size = len(prompt)
    merged = not prompt == with_chosen[:size] == with_rejected[:size]
    if merged:
        size = min(common_length(prompt, with_chosen), common_length(prompt, with_rejected))
    if size == 0 and not has_bos:
        raise Dropped(DropReason.NO_COMMON_PROMPT, "the two sides share no token of the prompt")
    chosen, rejected = with_chosen[size:], with_rejected[size:]
    if not chosen or not rejected:
        raise Dropped(DropReason.EMPTY_ANSWER, f"{'rejected' if chosen else 'chosen'} has no token of its own")
    if merged:
        return PairIds(prompt[:size], chosen, rejected, notes=Notes.BOUNDARY_MERGED)
    return PairIds(prompt, chosen, rejected)


def add_special_tokens(ids: PairIds, tokenizer: Tokenizer, *, is_chat: bool) -> PairIds:
    """Adds BOS before a text, where texts begin with it, and EOS after each answer, each only where it lacks.

    Before a dialogue stands what the chat template writes: at inference nothing is added to that.
    """
    prompt = ids.prompt
    if not is_chat and tokenizer.bos_id is not None and tokenizer.lacks_bos(prompt):
        prompt = array("i", [tokenizer.bos_id]) + prompt
    return PairIds(
        prompt, _with_eos(ids.chosen, tokenizer), _with_eos(ids.rejected, tokenizer),
        ids.truncated, ids.notes, ids.unscored_chosen, ids.unscored_rejected,
    )  # fmt: skip


def lacks_eos(ids: Ids, begin: int, end: int, tokenizer: Tokenizer) -> bool:
    """Tells whether the last token of `ids[begin:end]` that is not white space ends no answer."""
    for place in range(end - 1, begin - 1, -1):
        if ids[place] in tokenizer.answer_ends:
            return False
        if not tokenizer.is_space(ids[place]):
            break
    return True


@dropping_errors
def explain_boundary(encoded: Encoded, tokenizer: Tokenizer) -> Explanation:
    """Says where the prompt ends and which special tokens are added.

    Raises:
      Dropped: as `split_at_boundary`.
    """
    prompt, *sides = encoded.sides
    is_chat = isinstance(encoded.pair, ChatPair)
    ids = split_at_boundary(*encoded.sides, has_bos=tokenizer.adds_bos and not is_chat)
    size = len(ids.prompt)
    lines = []
    if ids.boundary_merged:
        lines.append(("boundary", f"merged: the three encodings share {size} of the prompt's {len(prompt)} tokens"))
        for name, encoding in zip(("prompt", "chosen", "rejected"), (prompt, *sides), strict=True):
            lines.append(("", f"{name} goes on with {tokenizer.quote(encoding[size : size + 4])}"))
    else:
        lines.append(("boundary", f"clean: all {size} tokens of the prompt begin both sides"))
    whole = add_special_tokens(ids, tokenizer, is_chat=is_chat)
    if tokenizer.bos_id is None:
        lines.append(("BOS", "the tokenizer has none"))
    elif not whole.prompt or whole.prompt[0] != tokenizer.bos_id:
        lines.append(("BOS", f"none: the {'chat template writes' if is_chat else 'tokenizer adds'} none"))
    else:
        what = "added" if len(whole.prompt) > size else "there already"
        lines.append(("BOS", f"{tokenizer.token(tokenizer.bos_id)} {what}"))
    for side, before, after in (("chosen", ids.chosen, whole.chosen), ("rejected", ids.rejected, whole.rejected)):
        last = f"there already: ends with {tokenizer.quote(before[-2:])}"
        added = f"{tokenizer.token(tokenizer.eos_id)} added"
        lines.append(("EOS", f"{side}: {added if len(after) > len(before) else last}"))
    return Explanation(whole, lines)


def explain_lengths(before: PairIds, after: PairIds, config: DatasetSettings) -> list[LengthStep]:
    """Lists the lengths after each rule. Only the second rule cuts prompts, and the third follows it."""
    limit = config.max_completion_length
    prompt, *answers = before.lengths
    answers = [min(length, limit or length) for length in answers]
    ways = {Notes.TURNS_DROPPED: "whole oldest turns", Notes.TURN_CUT: "text of one turn"}
    how = ", ".join(way for note, way in ways.items() if note in after.notes) or config.truncation_side
    return [
        LengthStep("before", before.lengths),
        LengthStep(f"1 max_completion_length {limit or 'unset'}", [prompt, *answers]),
        LengthStep(f"2 prompt to what is left, not below {config.prompt_floor} ({how})", [len(after.prompt), *answers]),
        LengthStep("3 answers to what the prompt leaves", after.lengths),
    ]


def _shorten(pair: ChatPair, ids: PairIds, tokenizer: Tokenizer, config: DatasetSettings) -> PairIds:
    if prompt_fits(ids, config):
        return ids
    prompt, chosen, rejected = pair.messages()
    template, options = needed(tokenizer.chat_template), template_options(pair, config)

    def encode(messages: list[Message]) -> PairIds:
        rendered = render_messages(messages, chosen, rejected, template, options, score_all=config.scores_all_turns)
        return _split(encode_sides([rendered.texts], tokenizer)[0], rendered, tokenizer, is_chat=True)

    return shorten_dialogue(prompt, ids, encode, partial(token_starts, tokenizer=tokenizer), config)


def _split(encoded: Sides, rendered: Rendered, tokenizer: Tokenizer, *, is_chat: bool) -> PairIds:
    ids = split_at_boundary(*encoded, has_bos=tokenizer.adds_bos and not is_chat)
    if rendered.own:
        ids = _with_unscored(ids, rendered, tokenizer)
    return add_special_tokens(ids, tokenizer, is_chat=is_chat)


def _with_unscored(ids: PairIds, rendered: Rendered, tokenizer: Tokenizer) -> PairIds:
    """Adds which tokens of the answers no loss counts.

    Raises:
      Dropped: all tokens of an answer.
    """
    prompt, *answers = rendered.texts
    tail, spans = prompt[cut_of(prompt, tokenizer) :], []
    for answer, of_answer, own in zip(answers, (ids.chosen, ids.rejected), rendered.own, strict=True):
        before = ids.prompt[-1] if ids.prompt else None
        ends = token_ends(tail + answer, of_answer, before, tokenizer)
        own_text = [OwnText(len(tail) + begin, len(tail) + end) for begin, end in own]
        spans.append(unscored_spans(of_answer, ends, own_text, tokenizer))
    return ids._replace(unscored_chosen=spans[0], unscored_rejected=spans[1])


def _say_since_when(before: PairIds, size: int, config: DatasetSettings) -> str:
    """Says when two answers of `size` tokens became equal; `before` are the ids before the length rules."""
    if before.chosen == before.rejected:
        return "the tokenizer makes the same tokens of the two texts"
    limit = "max_completion_length" if size == config.max_completion_length else "max_length"
    return f"chosen and rejected are the same in the {size} tokens that fit; a higher --{limit} keeps where they part"


def _with_eos(answer: Ids, tokenizer: Tokenizer) -> Ids:
    return answer + array("i", [tokenizer.eos_id]) if lacks_eos(answer, 0, len(answer), tokenizer) else answer
