"""Rendering messages to texts: the template writes the prompt, and an answer is the text that follows it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache, reduce
from operator import or_
from typing import Any, NamedTuple

from oddsmill.pipeline.config import DatasetSettings
from oddsmill.pipeline.formats.dialogues import continue_turn
from oddsmill.pipeline.formats.pairs import NOTHING, ChatPair, Message, Notes, Pair, PreferencePair
from oddsmill.pipeline.tokens.answer_turns import OwnText, own_texts
from oddsmill.pipeline.tokens.left_out import LeftOut, find_left_out, writes_all
from oddsmill.schemas.chat.metering import TooCostly
from oddsmill.schemas.chat.outline import Outline
from oddsmill.schemas.chat.template import ChatTemplate, TemplateFailed
from oddsmill.schemas.drops import Dropped, DropReason, dropping_errors
from oddsmill.schemas.errors import Refused


class Rendered(NamedTuple):
    """The texts of a pair, and the notes on how they were made.

    Attributes:
      own: what the assistant writes itself of chosen and of rejected; empty where that is all of both.
      left_out: the texts of its messages that the template did not write.
    """

    texts: PreferencePair
    notes: Notes = NOTHING
    own: tuple[list[OwnText], ...] = ()
    left_out: tuple[LeftOut, ...] = ()


_OF_ANSWERS = (Notes.ANSWERS_NOT_RENDERED, Notes.TOOL_CALLS_NOT_RENDERED, Notes.REASONING_NOT_RENDERED)
_COSTLY_ROWS = 3  # it is the template then, and no odd row
Render = Callable[[Pair, ChatTemplate | None, DatasetSettings], Rendered]


@contextmanager
def dropping_failed_templates() -> Iterator[None]:
    """Drops the row whose messages a template fails on."""
    try:
        yield
    except TemplateFailed as failure:
        # From the template's own error: a refusal in the chain of causes would end the run (schemas/errors.py).
        raise Dropped(DropReason.TEMPLATE_ERROR, str(failure)) from failure.__cause__


@dropping_errors
def render_pair(pair: Pair, template: ChatTemplate | None, config: DatasetSettings) -> Rendered:
    """Renders the texts that the model reads of a pair; those of a `PreferencePair` are its own.

    Raises:
      Dropped: the template fails on these messages, gives no prompt that both sides begin with, or leaves out a text
        that `require_rendered` asks for.
      Refused: there are messages and no template.
    """
    if isinstance(pair, PreferencePair):
        return Rendered(pair)
    prompt, chosen, rejected = pair.messages()
    options = template_options(pair, config)
    if pair.is_plain and (rendered := _render_by_outlines(prompt, chosen, rejected, needed(template), options)):
        return rendered
    rendered = render_messages(prompt, chosen, rejected, needed(template), options, score_all=config.scores_all_turns)
    rendered = note_left_out(rendered, pair, (prompt, chosen, rejected), needed(template), config)
    if any(part.note in _OF_ANSWERS for part in rendered.left_out):
        _check_answers(rendered, prompt, needed(template), options)
    return rendered


def _render_by_outlines(
    prompt: list[Message],
    chosen: list[Message],
    rejected: list[Message],
    template: ChatTemplate,
    options: Mapping[str, Any],
) -> Rendered | None:
    """Renders a dialogue of texts with one answer by what is known of its shape, as most are: a tenth of the time.

    Returns: None where there is more to find out: outlines, what the template leaves out, where the prompt ends.

    Raises:
      Dropped: as `render_pair`.
    """
    if len(chosen) + len(rejected) > 2 or prompt[-1]["role"] == "assistant":
        return None
    if "tools" in options["variables"] or "documents" in options["variables"]:
        return None
    roles, before = tuple([turn["role"] for turn in prompt]), [turn["content"] for turn in prompt]
    with_chosen, with_rejected = [*before, chosen[0]["content"]], [*before, rejected[0]["content"]]
    whole = template.outline((*roles, "assistant"), with_chosen, **options)
    start = template.outline(roles, before, generation_prompt=True, **options)
    if whole is None or start is None or not whole.serves(with_rejected):
        return None
    answer = _after(whole, start)
    if answer is None or not writes_all(whole, before, with_chosen[-1], with_rejected[-1]):
        return None
    return Rendered(_checked(PreferencePair(start.fill(before), answer.fill(with_chosen), answer.fill(with_rejected))))


_after = lru_cache(maxsize=4096)(Outline.after)


def _checked(texts: PreferencePair) -> PreferencePair:
    """Returns the texts of a pair.

    Raises:
      Dropped: one is missing, or the answers are the same.
    """
    if texts.chosen == texts.rejected:
        raise Dropped(DropReason.IDENTICAL_ANSWERS, "the template renders chosen and rejected alike")
    if not texts.prompt or not texts.chosen or not texts.rejected:
        raise Dropped(DropReason.TEMPLATE_ERROR, "the template leaves the prompt or an answer out")
    return texts


def _check_answers(
    rendered: Rendered, prompt: list[Message], template: ChatTemplate, options: Mapping[str, Any]
) -> None:
    """Drops a pair with an answer of which the template writes nothing: the model would learn to say nothing.

    Raises:
      Dropped: the answer is rendered as an empty one is.
    """
    with suppress(TemplateFailed):  # a template that takes no empty answer has written something
        nothing = template.render([*prompt, {"role": "assistant", "content": ""}], **options)
        for name, text in zip(("chosen", "rejected"), rendered.texts[1:], strict=True):
            if rendered.texts.prompt + text == nothing:
                lacking = ", ".join(map(str, rendered.left_out[:3]))
                raise Dropped(DropReason.TEMPLATE_ERROR, f"the template writes nothing of {name}: no {lacking}")


def note_left_out(
    rendered: Rendered,
    pair: ChatPair,
    messages: tuple[list[Message], list[Message], list[Message]],
    template: ChatTemplate,
    config: DatasetSettings,
) -> Rendered:
    """Notes what the template left out of a dialogue: texts, and variables of the row.

    Args:
      messages: those of the pair.

    Raises:
      Dropped: a text, and `require_rendered` is on.
    """
    row_variables = pair.row_variables()
    left_out = find_left_out(*messages, config.chat_template_kwargs | row_variables, rendered.texts)
    notes = rendered.notes
    if any(name not in ("tools", "documents") and not template.mentions(name) for name in row_variables):
        notes |= Notes.VARIABLES_NOT_READ
    if left_out and config.require_rendered:
        more = f" and {len(left_out) - 1} more" if left_out[1:] else ""
        raise Dropped(DropReason.NOT_RENDERED, f"the chat template does not write the {left_out[0]}{more}")
    if not left_out and notes is rendered.notes:
        return rendered
    return rendered._replace(notes=reduce(or_, (part.note for part in left_out), notes), left_out=tuple(left_out))


@dropping_failed_templates()
def render_messages(
    prompt: list[Message],
    chosen: list[Message],
    rejected: list[Message],
    template: ChatTemplate,
    options: Mapping[str, Any],
    *,
    score_all: bool = False,
) -> Rendered:
    """Renders the prompt with the generation prompt; an answer is what the whole dialogue adds to that.

    A prompt that ends in a turn of the assistant is left open there, and the answers continue that turn.

    Where that is no prefix of both sides (a template that opens a `<think>` it does not write afterwards), the
    prompt ends at the turn before: the answers then begin with the header of their turn.

    Args:
      score_all: no text of an answer of several turns is told apart from what the assistant writes itself.

    Raises:
      Dropped: as `render_pair`.
    """
    sides, before = [chosen, rejected], prompt
    is_open = bool(prompt) and all(turn["role"] == "assistant" for turn in (prompt[-1], chosen[0], rejected[0]))
    if is_open:
        before, sides = prompt[:-1], [[continue_turn(prompt[-1], side[0]), *side[1:]] for side in sides]
    whole = [template.render([*before, *side], **options) for side in sides]
    starts = _starts(prompt, template, options, is_open=is_open)
    start, notes = next((pair for pair in starts if all(text.startswith(pair[0]) for text in whole)), (None, NOTHING))
    if start is None:
        raise Dropped(DropReason.TEMPLATE_NOT_PREFIX, "no rendering of the prompt begins the rendering of both sides")
    texts = _checked(PreferencePair(start, *(text[len(start) :] for text in whole)))
    if score_all or all(len(side) == 1 for side in sides):
        return Rendered(texts, notes)

    def render(messages: list[Message], generation_prompt: bool) -> str:
        return template.render(messages, generation_prompt=generation_prompt, **options)

    own = [own_texts(before, side, text, len(start), render) for side, text in zip(sides, whole, strict=True)]
    return Rendered(texts, notes, tuple(own))


def _starts(
    prompt: list[Message], template: ChatTemplate, options: Mapping[str, Any], *, is_open: bool
) -> Iterator[tuple[str, Notes]]:
    """Yields renderings of the prompt, the first of which that begins both sides is taken."""
    if is_open:
        yield template.render_open(prompt, **options), NOTHING
        return
    yield template.render(prompt, generation_prompt=True, **options), NOTHING
    yield template.render(prompt, generation_prompt=False, **options), Notes.SPLIT_AT_TURN


def check_rendering(
    pairs: Sequence[Pair], template: ChatTemplate | None, config: DatasetSettings, *, render: Render = render_pair
) -> None:
    """Renders a sample before a run begins.

    Args:
      render: makes the texts of a pair, as the run will.

    Raises:
      Refused: there are messages and no template that can be used, or settings of the template have no effect.
    """
    chats = [pair for pair in pairs if isinstance(pair, ChatPair)]
    costly = 0
    for chat in chats:
        try:
            render(chat, template, config)
        except Dropped as dropped:
            costly += isinstance(dropped.__cause__, TooCostly)
            if costly == min(_COSTLY_ROWS, len(chats)):
                where = f"on {costly} of the first rows; give another --chat_template"
                raise Refused(f"{dropped.detail}, {where}") from None
    for name in ("chat_template", "chat_template_kwargs", "chat_date", "require_rendered", "answer_loss"):
        if pairs and not chats and getattr(config, name):
            raise Refused(
                f"--{name}={getattr(config, name)}: has no effect, since the rows are texts, not messages; "
                "--chat=true makes messages of them"
            )
    if config.chat_date and template and not template.uses_date:
        raise Refused(f"--chat_date={config.chat_date}: has no effect, since the chat template writes no date")
    for name in config.chat_template_kwargs:
        if template and not template.mentions(name):
            raise Refused(
                f"--chat_template_kwargs={config.chat_template_kwargs}: has no effect, since the chat template does "
                f"not read {name!r}"
            )


def template_options(pair: ChatPair, config: DatasetSettings) -> dict[str, Any]:
    """Returns what `ChatTemplate.render` takes beside the messages; the row's variables win."""
    return {"date": config.chat_date, "variables": config.chat_template_kwargs | pair.row_variables()}


def needed(template: ChatTemplate | None) -> ChatTemplate:
    """Returns the template.

    Raises:
      Refused: there is none.
    """
    if template is None:
        raise Refused(
            "the rows hold messages, and the tokenizer has no chat template to render them; "
            "give one by --chat_template=FILE.jinja, or use the tokenizer of the model's chat version"
        )
    return template
