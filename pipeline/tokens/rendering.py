"""From the messages of a pair to its texts: what the template writes for the prompt, and what follows it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from typing import Any, NamedTuple

from oddsmill.pipeline.config import DatasetSettings
from oddsmill.pipeline.drops import Dropped, DropReason
from oddsmill.pipeline.formats.pairs import NOTHING, ChatPair, Message, Notes, Pair, PreferencePair
from oddsmill.schemas.chat.template import ChatTemplate, TemplateFailed
from oddsmill.schemas.errors import Refused


class Rendered(NamedTuple):
    """The texts of a pair, and what is to be noted of it."""

    texts: PreferencePair
    notes: Notes = NOTHING


@contextmanager
def _a_template_that_fails_drops_the_row() -> Iterator[None]:
    try:
        yield
    except TemplateFailed as failure:
        # From the template's own error: a refusal in the chain of causes would end the run (schemas/errors.py).
        raise Dropped(DropReason.TEMPLATE_ERROR, str(failure)) from failure.__cause__


def render_pair(pair: Pair, template: ChatTemplate | None, config: DatasetSettings) -> Rendered:
    """The texts that the model reads of a pair; those of a `PreferencePair` are its own.

    Raises:
      Dropped: the template fails on these messages, or gives no prompt that both sides begin with.
      Refused: there are messages and no template.
    """
    if isinstance(pair, PreferencePair):
        return Rendered(pair)
    prompt, chosen, rejected = pair.messages()
    options = template_options(pair, config)
    return render_messages(prompt, chosen, rejected, needed(template), options)


@_a_template_that_fails_drops_the_row()
def render_messages(
    prompt: list[Message],
    chosen: list[Message],
    rejected: list[Message],
    template: ChatTemplate,
    options: Mapping[str, Any],
) -> Rendered:
    """The prompt is rendered with the generation prompt; an answer is what the whole dialogue adds to that.

    Where that is no prefix of both sides (a template that opens a `<think>` it does not write afterwards), the
    prompt ends at the turn before: the answers then begin with the header of their turn.

    Raises:
      Dropped: as `render_pair`.
    """
    whole = [template.render([*prompt, *side], **options) for side in (chosen, rejected)]
    for generation_prompt in (True, False):
        start = template.render(prompt, generation_prompt=generation_prompt, **options)
        if all(text.startswith(start) for text in whole):
            break
    else:
        raise Dropped(DropReason.TEMPLATE_NOT_PREFIX, "no rendering of the prompt begins the rendering of both sides")
    texts = PreferencePair(start, *(text[len(start) :] for text in whole))
    if texts.chosen == texts.rejected:
        raise Dropped(DropReason.IDENTICAL_ANSWERS, "the template renders chosen and rejected alike")
    if not start or not texts.chosen or not texts.rejected:
        raise Dropped(DropReason.TEMPLATE_ERROR, "the template leaves the prompt or an answer out")
    return Rendered(texts, NOTHING if generation_prompt else Notes.SPLIT_AT_TURN)


@_a_template_that_fails_drops_the_row()
def render_as_trl(pair: ChatPair, template: ChatTemplate, config: DatasetSettings) -> PreferencePair:
    """TRL's rendering: the prompt is the characters that three renderings have in common.

    Raises:
      Dropped: TRL raises on these messages, or the template does.
    """
    prompt, chosen, rejected = pair.messages()
    options = template_options(pair, config)
    last = prompt[-1].get("role")
    if last in ("user", "tool"):
        start = template.render(prompt, generation_prompt=True, **options)
    elif last == "assistant":
        start = template.render_open(prompt, **options)
    else:
        raise Dropped(DropReason.TRL_ERROR, f"invalid role in the last message of the prompt: {last}")
    sides = [template.render([*prompt, *side], **options) for side in (chosen, rejected)]
    for side in sides:
        start = "".join(a for a, _ in takewhile(lambda both: both[0] == both[1], zip(start, side, strict=False)))
    return PreferencePair(start, *(side[len(start) :] for side in sides))


def check_rendering(pairs: Sequence[Pair], template: ChatTemplate | None, config: DatasetSettings) -> None:
    """Renders a sample before a run begins.

    Raises:
      Refused: there are messages and no template that can be used, or settings of the template have no effect.
    """
    chats = [pair for pair in pairs if isinstance(pair, ChatPair)]
    for chat in chats:
        with suppress(Dropped):
            render_pair(chat, template, config)
    for name in ("chat_template", "chat_template_kwargs", "chat_date"):
        if pairs and not chats and getattr(config, name):
            raise Refused(f"--{name}={getattr(config, name)}: has no effect, since the rows are texts, not messages")
    if config.chat_date and template and not template.uses_date:
        raise Refused(f"--chat_date={config.chat_date}: has no effect, since the chat template writes no date")


def template_options(pair: ChatPair, config: DatasetSettings) -> dict[str, Any]:
    """What `ChatTemplate.render` takes beside the messages; the row's variables win."""
    return {"date": config.chat_date, "variables": config.chat_template_kwargs | json.loads(pair.variables)}


def needed(template: ChatTemplate | None) -> ChatTemplate:
    """The template.

    Raises:
      Refused: there is none.
    """
    if template is None:
        raise Refused(
            "the rows hold messages, and the tokenizer has no chat template to render them; "
            "give one by --chat_template=FILE.jinja, or use the tokenizer of the model's chat version"
        )
    return template
