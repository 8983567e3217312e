"""Tracing a chat template: it runs on texts that it can write, join, trim and ask about, and cannot otherwise see.

Whatever else it does with one ends the tracing. So a rendering that comes to its end is the same for all texts that
give the same answers to what the template asked; the answers are the outline's guards. JAX traces functions so.
"""

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2

from oddsmill.schemas.chat import metering
from oddsmill.schemas.chat.outline import Guard, Outline, Parts, Slot, fill
from oddsmill.schemas.chat.sandbox import SandboxEnvironment, compile_template

_PART = 32  # what a part of a text costs: a template may join empty contents for ever
_MOST_STRIPS = 8
_MOST_QUESTIONS = 16  # a message: with more, an outline takes as long as the template


class _Untraceable(BaseException):
    """The template looks at a text. It is no `Exception`, for Jinja's tests and filters answer to these."""


class _Trace:
    """The record of one run."""

    def __init__(self, contents: Sequence[str]):
        self.contents, self.guards = contents, list[Guard]()
        self.copies = 0  # how often a content is written or copied, at most

    def ask(self, question: Callable[..., bool], *texts: Parts) -> bool:
        """Returns the answer for the contents of this run, which becomes a guard."""
        for parts in texts:
            _charge_for(parts)
        answer = question(*(fill(parts, self.contents) for parts in texts))
        self.guards.append(Guard(question, texts, answer))
        if len(self.guards) > _MOST_QUESTIONS * len(self.contents):
            raise _Untraceable
        return answer


def _forbidden(*_: Any, **__: Any) -> Any:
    raise _Untraceable


class Traced:
    """A text that holds contents of messages. It is no `str`, so that nothing sees into it that is not here."""

    __slots__ = ("parts", "trace")

    def __init__(self, parts: Parts, trace: _Trace):
        self.parts, self.trace = parts, trace
        metering.check_size(_PART * len(parts))
        _charge_for(parts)

    def __add__(self, other: Any) -> Any:
        return _joined(self, other) if type(other) in (str, Traced) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        return _joined(other, self) if type(other) is str else NotImplemented

    def __bool__(self) -> bool:
        return self.trace.ask(bool, self.parts)

    def __contains__(self, other: Any) -> bool:
        return self.trace.ask(operator.contains, self.parts, _parts(other))

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, (str, Traced)):
            return NotImplemented
        return self.trace.ask(operator.eq, self.parts, _parts(other))

    __hash__ = __str__ = __repr__ = __format__ = _forbidden  # which each object has

    def startswith(self, prefix: Any) -> bool:
        return self.trace.ask(str.startswith, self.parts, _parts(prefix))

    def endswith(self, suffix: Any) -> bool:
        return self.trace.ask(str.endswith, self.parts, _parts(suffix))

    def strip(self, characters: Any = None) -> "Traced":
        return self.lstrip(characters).rstrip(characters)

    def lstrip(self, characters: Any = None) -> "Traced":
        return self._strip("lstrip", 0, characters)

    def rstrip(self, characters: Any = None) -> "Traced":
        return self._strip("rstrip", -1, characters)

    def replace(self, old: Any, new: Any) -> "Traced":
        if type(old) is not str or type(new) is not str or old in self:
            _forbidden()
        _count(
            self, times=2 + len(new) // len(old)
        )  # the sandbox looks at what this could make, before it looks for it
        metering.charge(len(new))
        return self

    def split(self, separator: Any) -> list["Traced"]:
        return [self] if separator not in self else _forbidden()

    def _strip(self, name: str, end: int, characters: Any) -> "Traced":
        """Strips one end: that of the part there, and where nothing is left of it, that of the next one."""
        if characters is not None and type(characters) is not str:
            _forbidden()
        parts = list(self.parts)
        while parts:
            part = parts[end]
            if isinstance(part, str):
                parts[end] = getattr(part, name)(characters)
                is_left = bool(parts[end])
            else:
                parts[end] = _stripped(part, name, characters)
                is_left = len(parts) == 1 or self.trace.ask(bool, (parts[end],))
            if is_left:
                break
            parts.pop(end)
        return Traced(tuple(parts), self.trace)


_METHODS = frozenset(("startswith", "endswith", "strip", "lstrip", "rstrip", "replace", "split"))


class _Written(str):
    """A text on its way to what the template writes, which Jinja takes for the string that it made."""

    traced: Traced

    def __str__(self) -> str:
        return self

    __html__ = _forbidden


def _parts(text: Any) -> Parts:
    return text.parts if type(text) is Traced else (text,) if type(text) is str else _forbidden()


def _stripped(slot: Slot, name: str, characters: str | None) -> Slot:
    if slot.strips[-1:] == (("lstrip", characters),) and name == "rstrip":
        return slot._replace(strips=(*slot.strips[:-1], ("strip", characters)))
    if len(slot.strips) == _MOST_STRIPS:
        _forbidden()
    return slot._replace(strips=(*slot.strips, (name, characters)))


def _parts_of(texts: Iterable[Any]) -> Iterator[str | Slot]:
    for text in texts:
        if type(text) is Traced:
            _charge_for(text.parts)
            yield from text.parts
        else:
            yield str(text)


def _joined(*texts: Any) -> Traced:
    """Joins texts, and other values as Jinja's operator `~` does."""
    parts: list[str | Slot] = []
    for is_literal, group in itertools.groupby(_parts_of(texts), lambda part: isinstance(part, str)):
        if not is_literal:
            parts += group
        elif text := "".join(map(str, group)):  # with an empty one, two contents would seem to stand apart
            parts.append(text)
    return Traced(tuple(parts), next(text.trace for text in texts if type(text) is Traced))


def _concatenated(written: Iterable[str]) -> Any:
    """Joins what a template, or a block of one, has written."""
    texts: list[Any] = [text.traced if type(text) is _Written else text for text in written]
    return _joined(*texts) if any(type(text) is Traced for text in texts) else "".join(texts)


def _written(value: Any) -> str:
    if type(value) is not Traced:
        return metering.written(value)
    _count(value)
    written = _Written()
    written.traced = value
    return written


def _count(*values: Any, times: int = 1) -> None:
    """Counts what looking at values some times costs beside the contents in them, and these."""
    waiting = [*values]
    for value in waiting:
        kind = type(value)
        if kind is Traced:
            literals = [len(part) for part in value.parts if type(part) is str]
            metering.charge(sum(literals) * times)
            _charge_for(value.parts)
            value.trace.copies += (len(value.parts) - len(literals)) * times
        elif kind is dict:
            waiting += value.values()
        elif isinstance(value, (list, tuple, *metering.VIEWS)):
            waiting += value
        metering.charge(1)


def _charge_for(parts: Parts) -> None:
    metering.charge(_PART * len(parts))


# Filters and tests of a text; of others it is not known what they see of one.
_FILTERS: dict[str, Callable[..., Any]] = {
    "trim": Traced.strip,
    "string": lambda text: text,
    "_light": lambda text: text,
    "_joined": _joined,
}
_BLIND_FILTERS = frozenset(("default", "d"))  # they ask no more than `Traced` answers
_TRUE_TESTS = frozenset(("string", "iterable", "sequence"))
_BLIND_TESTS = frozenset("defined undefined none boolean true false integer float number mapping callable".split())
_BLIND_TESTS |= {"escaped", "==", "eq", "equalto", "!=", "ne"}
_SINGLE = frozenset((bool, type(None)))  # equal values of these are one object


def _watched_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def apply(*args: Any, **kwargs: Any) -> Any:
        takes_text = any(type(value) is Traced for value in (*args, *kwargs.values())) and name not in _BLIND_FILTERS
        result = (_FILTERS.get(name, _forbidden) if takes_text else function)(*args, **kwargs)
        _count(args, kwargs, result)
        return result

    return apply


def _watched_test(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def apply(*args: Any, **kwargs: Any) -> Any:
        if name in _BLIND_TESTS or not any(type(value) is Traced for value in (*args, *kwargs.values())):
            return function(*args, **kwargs)
        return name in _TRUE_TESTS or _forbidden()

    return apply


@jinja2.pass_context  # so that it is not asked while the template is compiled
def _same(_: Any, value: Any, other: Any) -> bool:
    """Jinja's test `sameas`. Which texts and messages are one object differs between dialogues of one shape."""
    if type(value) not in _SINGLE and type(other) not in _SINGLE:
        raise _Untraceable
    return value is other


class _TracingEnvironment(SandboxEnvironment):
    concat = staticmethod(_concatenated)
    template_class = jinja2.Template  # metered by `trace`

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.finalize = _written
        self.filters = {name: _watched_filter(name, function) for name, function in self.filters.items()}
        tests: Mapping[str, Any] = self.tests
        self.tests = {name: _watched_test(name, function) for name, function in tests.items()} | {"sameas": _same}

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is Traced:
            return getattr(obj, attribute) if attribute in _METHODS else _forbidden()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if type(obj) is Traced or type(argument) is Traced:
            _forbidden()
        return super().getitem(obj, argument)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  (as Jinja has it)
        result = super().call(__context, __obj, *args, **kwargs)
        _count(args, [value for name, value in kwargs.items() if name not in ("_loop_vars", "_block_vars")], result)
        return result


def compile_tracing(text: str) -> jinja2.Template:
    """Compiles a template, which compiles, for `trace`."""
    return compile_template(text, _TracingEnvironment)


def trace(
    template: jinja2.Template, roles: Sequence[str], contents: Sequence[str], variables: Mapping[str, Any]
) -> Outline | None:
    """Finds the outline of a rendering; None where the template looks further at a content than can be followed.

    Args:
      template: that of `compile_tracing`.
      variables: what else the template sees.
    """
    trace = _Trace(contents)
    try:
        with metering.metered(None):
            messages = [{"role": role, "content": Traced((Slot(number),), trace)} for number, role in enumerate(roles)]
            text = template.render(messages=messages, **variables)
            longest = metering.longest_content(trace.copies)
    except (_Untraceable, Exception):  # the template's own errors are told where it renders
        return None
    return Outline(tuple(filter(None, _parts(text))), trace.guards, longest)
