"""Settings: a frozen dataclass a verb. How they are given, schemas/command_line/ reads.

All facts of a setting stand on its field: default, help, range, and what it goes with. The checks, `--help`, the
docstring, the reference page and the identity of a run are read off them.
"""

import dataclasses
import inspect
import math
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, dataclass_transform

import yaml

from oddsmill.schemas.errors import require
from oddsmill.schemas.text.redaction import redact

Settings = TypeVar("Settings")
_UNIONS = (types.UnionType, typing.Union)
_FACTS = "facts"  # the key of a field's metadata


class Facts(NamedTuple):
    """The facts of one setting beside its type and its default; see `setting`."""

    help: str
    at_least: float | None
    above: float | None
    at_most: float | None
    below: float | None
    needs: tuple[str, ...]
    only_with: Mapping[str, tuple[object, ...]]
    may_change: bool

    def allows(self, value: float) -> bool:
        """Tells whether a number is in range; NaN is in none."""
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    @property
    def range(self) -> str:
        """Returns the range in words, such as `positive` or `between 0 and 1`; empty where there is none."""
        if self.at_least is not None and self.at_most is not None:
            return f"between {self.at_least} and {self.at_most}"
        bounds = []
        if self.at_least is not None:
            bounds.append(f"at least {self.at_least}")
        if self.above is not None:
            bounds.append("positive" if self.above == 0 else f"above {self.above}")
        if self.at_most is not None:
            bounds.append(f"at most {self.at_most}")
        if self.below is not None:
            bounds.append("finite" if self.below == math.inf else f"less than {self.below}")
        return "not negative" if bounds == ["at least 0"] else " and ".join(bounds)

    @property
    def meaning(self) -> str:
        """The help, and beside which other settings this one has an effect."""
        text = self.help
        for by, readers in self.only_with.items():
            text += (
                f" Only with {by}={' or '.join('null' if value is None else str(value).lower() for value in readers)}."
            )
        return text + (f" Goes with {' or '.join(self.needs)}." if self.needs else "")


def setting(
    help: str,
    *,
    default: Any = dataclasses.MISSING,
    default_factory: Callable[[], Any] | Any = dataclasses.MISSING,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    needs: tuple[str, ...] = (),
    only_with: Mapping[str, tuple[object, ...]] | None = None,
    may_change: bool = False,
) -> Any:
    """Makes a field of a settings class.

    Args:
      help: sentences for `--help`, the docstring and the reference page.
      default, default_factory: those of `dataclasses.field`; without either the setting must be given.
      at_least, above, at_most, below: bounds of a number; null passes.
      needs: settings one of which must be on (neither null nor false, 0 or empty) where this one is not at its default.
      only_with: another setting -> those of its values that read this one; with others it must stay at its default.
      may_change: whether a run may go on with another value than it was started with.
    """
    facts = Facts(help, at_least, above, at_most, below, needs, only_with or {}, may_change)
    return dataclasses.field(default=default, default_factory=default_factory, metadata={_FACTS: facts})


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(setting,))
def settings(*, group: str = "") -> Callable[[type[Settings]], type[Settings]]:
    """Makes a frozen keyword-only dataclass whose values are checked when it is made.

    The facts of all fields are checked first. Then `check()` of each class runs that has one, base classes first:
    it holds what concerns several settings.

    Args:
      group: what the names of its settings begin with on a command line, such as `lora.`.
    """

    def make(cls: type[Settings]) -> type[Settings]:
        def check_all(self: Any) -> None:
            check_facts(self, group)
            for kind in reversed(cls.__mro__):
                if "check" in vars(kind):
                    vars(kind)["check"](self)

        cls.__post_init__ = check_all  # type: ignore[attr-defined]
        made: Any = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
        made.__doc__ = inspect.cleandoc(made.__doc__ or "") + "\n\nArgs:\n" + "\n".join(_entries(made))
        return typing.cast(type[Settings], made)

    return make


def facts_of(settings_class: type, name: str) -> Facts:
    """Returns the facts of one setting."""
    return typing.cast(Facts, settings_class.__dataclass_fields__[name].metadata[_FACTS])  # type: ignore[attr-defined]


def _entries(settings_class: Any) -> Iterator[str]:
    """Yields the lines of a docstring that say what each setting is."""
    for field in dataclasses.fields(settings_class):
        text = f"{field.name}: {facts_of(settings_class, field.name).meaning}"
        yield textwrap.fill(text, 110, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def check_facts(values: Any, group: str = "") -> None:
    """Checks each setting against the facts of its field; from Python even the choices come unchecked.

    Raises:
      Refused: a value that is none of the choices, is out of its range, or has no effect beside the other settings.
    """
    _check_choices(values, group)
    for field in dataclasses.fields(values):
        value, facts = getattr(values, field.name), facts_of(type(values), field.name)
        problem = f"must be {facts.range}".replace("be not", "not be")
        require(not isinstance(value, (int, float)) or facts.allows(value), group + field.name, value, problem)
    for field in dataclasses.fields(values):
        value, facts = getattr(values, field.name), facts_of(type(values), field.name)
        if value == default_of(field):
            continue
        for by, readers in facts.only_with.items():
            chosen = getattr(values, by)
            only = f", only with {' or '.join(map(str, readers))}" if any(readers) else ""
            problem = f"has no effect with --{group}{by}={chosen}{only}; leave it out"
            require(chosen in readers, group + field.name, value, problem)
        if facts.needs and not any(getattr(values, name) for name in facts.needs):
            is_flag = {name: typing.get_type_hints(type(values))[name] is bool for name in facts.needs}
            missing = " or ".join(f"--{group}{name}{'=true' * is_flag[name]}" for name in facts.needs)
            require(False, group + field.name, value, f"has no effect without {missing}")


def _check_choices(values: Any, group: str) -> None:
    for name, annotation in typing.get_type_hints(type(values)).items():
        kinds = typing.get_args(annotation) if typing.get_origin(annotation) in _UNIONS else (annotation,)
        literals = [kind for kind in kinds if typing.get_origin(kind) is typing.Literal]
        if not literals:
            continue
        value = getattr(values, name)
        allowed = [choice for kind in literals for choice in typing.get_args(kind)]
        others = tuple(kind for kind in kinds if kind not in literals)
        wanted = f"expected {type_name(annotation)}"
        require(value in allowed or (bool(others) and isinstance(value, others)), group + name, value, wanted)


def default_of(field: "dataclasses.Field[Any]") -> Any:
    """Returns the default of a field; `dataclasses.MISSING` where the setting must be given."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def defaults_of(settings_class: Any) -> dict[str, Any]:
    """Returns the default of each setting that has one, by name."""
    found = {field.name: default_of(field) for field in dataclasses.fields(settings_class)}
    return {name: default for name, default in found.items() if default is not dataclasses.MISSING}


def fixed_settings(values: Any) -> dict[str, Any]:
    """Returns the settings that a resumed run must keep, as plain values: all but those that may change."""
    fixed = {}
    for field in dataclasses.fields(values):
        if not facts_of(type(values), field.name).may_change:
            value = getattr(values, field.name)
            fixed[field.name] = fixed_settings(value) if dataclasses.is_dataclass(value) else value
    return fixed


def settings_as_yaml(settings: Any) -> str:
    """Returns the resolved settings as YAML that `--config` takes, without secrets."""
    return yaml.safe_dump(redact(dataclasses.asdict(settings)), sort_keys=False, allow_unicode=True)


def setting_types(settings_class: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted name and the type of every setting."""
    for name, annotation in typing.get_type_hints(settings_class).items():
        # A group of settings, or one that may be null.
        groups = [part for part in (annotation, *typing.get_args(annotation)) if dataclasses.is_dataclass(part)]
        for group in groups:
            yield from setting_types(typing.cast(type, group), f"{prefix}{name}.")
        if annotation not in groups:
            yield prefix + name, annotation


def type_name(annotation: Any) -> str:
    """Returns a type as a person writes it: `int`, `one of full, response`, `int or null`, `mapping of str to any`."""
    if annotation is types.NoneType:
        return "null"
    if annotation is Any:
        return "any"
    if typing.get_origin(annotation) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(annotation)))
    if typing.get_origin(annotation) in _UNIONS:
        return " or ".join(map(type_name, typing.get_args(annotation)))
    if typing.get_origin(annotation) is list:
        return f"list of {' or '.join(map(type_name, typing.get_args(annotation)))}"
    if typing.get_origin(annotation) is dict:
        return f"mapping of {' to '.join(map(type_name, typing.get_args(annotation)))}"
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
