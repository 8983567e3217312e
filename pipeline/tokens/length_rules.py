"""The length rules: which part of a pair is cut where it exceeds its limits. Pure functions.

A dialogue first loses whole turns, then text inside a turn, and never a token of its template; a text is cut by
tokens; then the answers.
"""

from collections.abc import Callable, Sequence

from oddsmill.pipeline.config import DatasetSettings
from oddsmill.pipeline.formats.dialogues import SYSTEM_ROLES
from oddsmill.pipeline.formats.pairs import Ids, Message, Notes, PairIds
from oddsmill.pipeline.tokens.answer_turns import cut_unscored
from oddsmill.schemas.drops import Dropped, DropReason
from oddsmill.schemas.record import Truncated

Encode = Callable[[list[Message]], PairIds]


def shorten_dialogue(
    prompt: list[Message],
    ids: PairIds,
    encode: Encode,
    token_starts: Callable[[str], Sequence[int]],
    config: DatasetSettings,
) -> PairIds:
    """Makes the prompt of a dialogue fit beside its answers, where it is too long and `overlong` is not `drop`.

    Its oldest turns go, as few as make it fit. System turns stay, and so does the last turn of the user with what
    follows it: if that alone is too long, the longest text there is cut, at the side that `truncation_side` says.

    Args:
      ids: the ids of the whole pair.
      encode: makes the ids of the pair with a shorter prompt; raises `Dropped` where the template does not take it.
      token_starts: the character at which each token of a text begins.

    Returns: the ids of the pair that is left.

    Raises:
      Dropped: no such cut makes it fit.
    """
    if prompt_fits(ids, config) or config.overlong == "drop":
        return ids
    prompt, ids = _drop_turns(prompt, ids, encode, config)
    if not prompt_fits(ids, config):
        ids = _cut_longest_text(prompt, ids, encode, token_starts, config)
    return ids._replace(truncated=Truncated.PROMPT)


def prompt_fits(ids: PairIds, config: DatasetSettings) -> bool:
    """Says whether the prompt is no longer than what its answers, and its floor, leave it."""
    return len(ids.prompt) <= _prompt_limit(ids, config)


def fit(ids: PairIds, config: DatasetSettings, *, bos_id: int | None) -> PairIds:
    """Applies the length rules; every answer that comes in ends with EOS, and one that is cut loses it.

    1. An answer longer than `max_completion_length` is cut at its end.
    2. If prompt + longer answer exceed `max_length`, the prompt is cut to what is left, but not below
       `max_prompt_length`: a short answer leaves room to a long prompt.
    3. What still exceeds `max_length` is cut from the answers' ends, each side alone, and unscored tokens that are
      then at an end with it.

    Raises:
      Dropped: the prompt leaves no room for an answer, a cut is needed and `overlong` is `drop`, or the
        pair does not fit a row.
    """
    if _fits(ids, config):
        return ids
    limit = config.max_completion_length
    chosen, rejected = ids.chosen[:limit], ids.rejected[:limit]
    prompt = _cut_prompt(ids.prompt, _prompt_limit(ids, config), config, bos_id)
    room = config.max_length - len(prompt)
    if room < 1:
        raise Dropped(
            DropReason.PROMPT_TOO_LONG,
            f"{len(prompt)} tokens of prompt leave no room for an answer in max_length {config.max_length}",
        )
    chosen, rejected = chosen[:room], rejected[:room]
    if ids.unscored_chosen or ids.unscored_rejected:
        chosen, unscored_chosen = cut_unscored(chosen, ids.unscored_chosen)
        rejected, unscored_rejected = cut_unscored(rejected, ids.unscored_rejected)
        ids = ids._replace(unscored_chosen=unscored_chosen, unscored_rejected=unscored_rejected)
    cuts = {
        flag: f"{flag.names()[0]} has {len(before)} tokens, {len(after)} fit"
        for flag, before, after in (
            (Truncated.PROMPT, ids.prompt, prompt),
            (Truncated.CHOSEN, ids.chosen, chosen),
            (Truncated.REJECTED, ids.rejected, rejected),
        )
        if len(after) < len(before)
    }
    if cuts and config.overlong == "drop":
        # An answer that no prompt of its length could make room for is to blame, whatever the prompt's own length.
        is_prompt = cuts.keys() == {Truncated.PROMPT}
        raise Dropped(DropReason.PROMPT_TOO_LONG if is_prompt else DropReason.ANSWER_TOO_LONG, "; ".join(cuts.values()))
    if not chosen or not rejected:
        problem = f"no token of the assistant's own is left of {'rejected' if chosen else 'chosen'}"
        raise Dropped(DropReason.ANSWER_TOO_LONG, f"{problem} in what fits: {'; '.join(cuts.values())}")
    slots = len(prompt) + len(chosen) + len(rejected)
    if slots > config.slots:
        raise Dropped(DropReason.PAIR_TOO_LONG, f"{slots} tokens, a row has {config.slots}")
    truncated = ids.truncated
    for flag in cuts:
        truncated |= flag
    return ids._replace(prompt=prompt, chosen=chosen, rejected=rejected, truncated=truncated)


def _fits(ids: PairIds, config: DatasetSettings) -> bool:
    """Says whether no rule cuts anything; most pairs fit, and are told by this in a moment."""
    prompt, chosen, rejected = ids.lengths
    longer = max(chosen, rejected)
    return (
        prompt + longer <= config.max_length
        and (config.max_completion_length is None or longer <= config.max_completion_length)
        and prompt + chosen + rejected <= config.slots
        and not ids.unscored_chosen
        and not ids.unscored_rejected
    )


def _drop_turns(
    prompt: list[Message], ids: PairIds, encode: Encode, config: DatasetSettings
) -> tuple[list[Message], PairIds]:
    """Returns the first of the shorter prompts that fits; where none does, the shortest."""
    shorter = shorter_prompts(prompt)
    low, high = 0, len(shorter) - 1
    while low <= high:
        middle = (low + high) // 2
        try:
            candidate = encode(shorter[middle])
        except Dropped:  # the template does not take a dialogue that begins here
            low = middle + 1
            continue
        fits = prompt_fits(candidate, config)
        if fits or len(candidate.prompt) < len(ids.prompt):
            prompt, ids = shorter[middle], candidate._replace(notes=candidate.notes | Notes.TURNS_DROPPED)
        low, high = (low, middle - 1) if fits else (middle + 1, high)
    return prompt, ids


def shorter_prompts(prompt: list[Message]) -> list[list[Message]]:
    """Lists the prompts that are left when the oldest turns go: system turns stay, and each begins with the user's."""
    kept = [message for message in prompt if message["role"] in SYSTEM_ROLES]
    turns = [message for message in prompt if message["role"] not in SYSTEM_ROLES]
    starts = [index for index, message in enumerate(turns) if message["role"] == "user" and index]
    return [[*kept, *turns[start:]] for start in starts]


def _cut_longest_text(
    prompt: list[Message],
    ids: PairIds,
    encode: Encode,
    token_starts: Callable[[str], Sequence[int]],
    config: DatasetSettings,
) -> PairIds:
    """Takes tokens from the longest text of a turn, neither the system's nor an opened one, until the prompt fits."""
    kept = [message["role"] in SYSTEM_ROLES for message in prompt]
    kept[-1] |= prompt[-1]["role"] == "assistant"  # an opened turn, which the answers continue
    texts = ["" if keeps else message.get("content") or "" for keeps, message in zip(kept, prompt, strict=True)]
    longest = max(range(len(texts)), key=lambda index: len(texts[index]))
    text, message = texts[longest], prompt[longest]
    starts = token_starts(text)
    size, notes = len(starts), ids.notes | Notes.TURN_CUT
    while True:
        # What is rendered has these tokens and the template's own; tokens that merge at the cut make it inexact.
        size -= len(ids.prompt) - _prompt_limit(ids, config)
        part = ""
        if size > 0:
            part = text[starts[len(starts) - size] :] if config.truncation_side == "keep_end" else text[: starts[size]]
        if not part.strip():
            raise Dropped(
                DropReason.PROMPT_TOO_LONG,
                f"{len(ids.prompt)} tokens of prompt where {_prompt_limit(ids, config)} fit, and a shorter text "
                f"in the turn of the {message['role']} does not make it fit",
            )
        ids = encode([*prompt[:longest], message | {"content": part}, *prompt[longest + 1 :]])
        if prompt_fits(ids, config):
            return ids._replace(notes=ids.notes | notes)


def _prompt_limit(ids: PairIds, config: DatasetSettings) -> int:
    """Returns what the longer answer leaves to the prompt of `max_length`, or `max_prompt_length` if that is more."""
    longer = max(len(ids.chosen), len(ids.rejected))
    if config.max_completion_length is not None:
        longer = min(longer, config.max_completion_length)
    return max(config.max_length - longer, config.prompt_floor)


def _cut_prompt(prompt: Ids, limit: int, config: DatasetSettings, bos_id: int | None) -> Ids:
    """Returns at most `limit` tokens of the prompt; its BOS is one of them."""
    if len(prompt) <= limit:
        return prompt
    if config.truncation_side == "keep_start":
        return prompt[:limit]
    head = prompt[: prompt[0] == bos_id]
    return head + prompt[len(prompt) - (limit - len(head)) :]
