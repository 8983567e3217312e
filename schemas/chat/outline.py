"""Outlines of a chat template's renderings: what it writes around the texts of a dialogue, to be filled with others.

    roles      user, assistant
    rendered   <|user|>Hi?<|end|><|assistant|>Hello.<|end|>
    outline    <|user|>~~~<|end|><|assistant|>~~~~~~<|end|>

An outline is found by tracing (schemas/chat/tracing.py): the template runs once on texts that it can write and trim,
and whose content it must ask for. What it asks, with the answer, is a guard: of texts that give the same answers it
makes the same outline, whatever else stands in them. So most dialogues are rendered in a hundredth of Jinja's time.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

from oddsmill.schemas.errors import RunFailed

# What is kept of a template: where all of it is used up, it takes about 100 MB.
_MOST_OF_SHAPE = 4  # outlines of a shape of dialogues
_MOST_SHAPES = 1024
_MOST_CHARACTERS = 1 << 26  # of all outlines, where each part counts as some more
_PART = 64
_MOST_MESSAGES = 100  # of a dialogue
# How often tracing may fail, until it is given up: some dialogues hold what the template looks into, and others do not.
_MOST_FAILURES_OF_SHAPE, _MOST_FAILURES = 16, 256
RENDERINGS_A_CHECK = 1000


class Slot(NamedTuple):
    """A place in a text where the content of a message stands.

    Attributes:
      message: its number in the dialogue.
      strips: the methods of `str`, each with its argument, that take characters off the ends of the content first.
    """

    message: int
    strips: tuple[tuple[str, str | None], ...] = ()

    def of(self, contents: Sequence[str]) -> str:
        """Returns what stands here for the contents of a dialogue."""
        text = contents[self.message]
        for name, characters in self.strips:
            text = getattr(text, name)(characters)
        return text


Parts = tuple[str | Slot, ...]


def fill(parts: Iterable[str | Slot], contents: Sequence[str]) -> str:
    """Returns the text that parts make with the contents of a dialogue."""
    return "".join([part if isinstance(part, str) else part.of(contents) for part in parts])


class Guard(NamedTuple):
    """A question that the template asked about texts, and the answer that it got."""

    question: Callable[..., bool]
    texts: tuple[Parts, ...]
    answer: bool

    def holds(self, contents: Sequence[str]) -> bool:
        """Says whether the answer is the same for the contents of a dialogue."""
        return self.question(*(fill(parts, contents) for parts in self.texts)) is self.answer


class Outline:
    """A rendering, in which contents may stand in the place of others."""

    def __init__(self, parts: Parts, guards: Iterable[Guard], longest: int):
        """Takes what tracing found.

        Args:
          parts: no text follows another, and none is empty.
          longest: the characters of a content up to which no bound of the sandbox is near.
        """
        self.parts = parts
        self._guards, self._longest = tuple(dict.fromkeys(guards)), longest
        self._texts = [part if isinstance(part, str) else "" for part in parts]
        self._slots = [(place, part) for place, part in enumerate(parts) if isinstance(part, Slot)]

    @property
    def size(self) -> int:
        """The characters and parts that are kept of it, roughly."""
        kept = [self.parts, *(parts for guard in self._guards for parts in guard.texts)]
        return sum(_PART + (len(part) if isinstance(part, str) else 0) for parts in kept for part in parts)

    def serves(self, contents: Sequence[str]) -> bool:
        """Says whether the template would make this rendering of a dialogue with these contents."""
        for guard in self._guards:
            if not guard.holds(contents):
                return False
        return all(map(self._longest.__ge__, map(len, contents)))

    def fill(self, contents: Sequence[str]) -> str:
        """Returns the rendering with these contents."""
        texts = self._texts.copy()
        for place, slot in self._slots:
            texts[place] = slot.of(contents) if slot.strips else contents[slot.message]
        return "".join(texts)

    def after(self, start: "Outline") -> "Outline | None":
        """Returns what follows another outline of the same dialogue; None where this one does not begin with it."""
        size = len(start.parts)
        head, rest = self.parts[:size], self.parts[size:]
        if head != start.parts:  # their last texts may be a longer and a shorter one
            ours, theirs = (parts[-1] if parts else None for parts in (head, start.parts))
            if head[:-1] != start.parts[:-1] or not (isinstance(ours, str) and isinstance(theirs, str)):
                return None
            if not ours.startswith(theirs):
                return None
            rest = (ours[len(theirs) :], *rest)
        return Outline(rest, (), self._longest)


class _Shape:
    """The outlines of dialogues that are alike in all but their contents."""

    def __init__(self) -> None:
        self.outlines: list[Outline] = []
        self.failures = 0


class Outlines:
    """The outlines of a template that are known, by the shape of the dialogue."""

    def __init__(self) -> None:
        self._shapes: dict[Hashable, _Shape] = {}
        self._failures, self._room = 0, _MOST_CHARACTERS

    def find(self, shape: Hashable, contents: Sequence[str]) -> Outline | None:
        """Returns an outline that serves a dialogue; None where the template must be asked.

        Of one dialogue in a thousand, by the characters that it has, the template is asked anyway: `learn` compares.
        """
        known = self._shapes.get(shape)
        if known is None or sum(map(len, contents)) % RENDERINGS_A_CHECK == 0:
            return None
        for outline in known.outlines:
            if outline.serves(contents):
                return outline
        return None

    def learn(self, shape: Hashable, contents: Sequence[str], text: str, trace: Callable[[], Outline | None]) -> None:
        """Adds the outline of a rendering, where there are few of its shape and tracing finds it.

        Args:
          text: what the template itself wrote.
          trace: finds the outline.

        Raises:
          RunFailed: an outline that is known gives something else.
        """
        is_full = shape not in self._shapes and len(self._shapes) >= _MOST_SHAPES
        if is_full or self._failures >= _MOST_FAILURES or len(contents) > _MOST_MESSAGES:
            return
        known = self._shapes.setdefault(shape, _Shape())
        for outline in known.outlines:
            if outline.serves(contents):
                _check(outline.fill(contents), text)
                return
        if len(known.outlines) >= _MOST_OF_SHAPE or known.failures >= _MOST_FAILURES_OF_SHAPE:
            return
        found = trace()
        if found and found.serves(contents) and found.fill(contents) == text and found.size <= self._room:
            known.outlines.append(found)
            self._room -= found.size
        else:
            known.failures += 1
            self._failures += 1


def _check(text: str, expected: str) -> None:
    if text != expected:
        raise RunFailed(
            f"an outline of the chat template gives {text[:200]!r}…, and the template {expected[:200]!r}…: please "
            "report this with the template"
        )
