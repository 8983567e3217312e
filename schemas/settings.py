"""Settings: a frozen dataclass a verb, then a YAML file, then `--key=value`, each over the one before.

All facts of a setting stand on its field: default, help, range, and what it goes with. The checks, `--help`, the
docstring, the reference page and the identity of a run are read off them.
"""

import argparse
import dataclasses
import difflib
import inspect
import math
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, dataclass_transform

import jsonargparse
import yaml

from oddsmill.schemas.console import LogLevel, show_messages
from oddsmill.schemas.errors import Refused, require
from oddsmill.schemas.listed_settings import check_elements, listable_groups, take_lists

Settings = TypeVar("Settings")
_UNIONS = (types.UnionType, typing.Union)
_LOG_LEVEL_HELP = (
    "Beside these: --log_level=debug|info|warning|error, which messages are shown (default: info); "
    "it is no setting and is kept nowhere."
)
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


def read_command_line(
    settings_class: type[Settings],
    arguments: Sequence[str],
    *,
    command: str,
    positional: str | None = None,
    messages_to_stderr: bool = False,
) -> Settings:
    """Reads the settings of one verb as `load_settings` does; from now on shows messages of `--log_level` and above.

    Args:
      messages_to_stderr: for commands whose standard output is a result.
    """
    flags = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    flags.add_argument("--log_level", choices=typing.get_args(LogLevel), default="info")
    try:
        own, others = flags.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise Refused(f"--log_level: {error.message}") from error
    show_messages(own.log_level, to_stderr=messages_to_stderr)
    return load_settings(settings_class, others, command=command, positional=positional)


def load_settings(
    settings_class: type[Settings], arguments: Sequence[str], *, command: str, positional: str | None = None
) -> Settings:
    """Reads settings of one class.

    Args:
      settings_class: made by `settings`.
      arguments: what stands after the verb: `--config FILE.yaml`, `--key=value`, `--print_config`, `--help`.
      command: how the verb is called, for the help text.
      positional: the field that a bare first argument sets (`inspect OUT`).

    Raises:
      Refused: an unknown setting (with the nearest known one), a wrong type, a value that a check refuses.
    """
    arguments = _spell_out_flags(arguments, settings_class)
    if positional and arguments and not arguments[0].startswith("-"):
        arguments[0] = f"--{positional}={arguments[0]}"
    parser = jsonargparse.ArgumentParser(prog=command, exit_on_error=False, epilog=_LOG_LEVEL_HELP)
    parser.add_argument("--config", action="config", help="A YAML file of settings; the command line wins.")
    groups = listable_groups(settings_class)
    arguments, lists = take_lists(arguments, groups)
    for name, group in groups.items():
        if name in lists:
            parser.add_argument(f"--{name}", type=list[group])  # type: ignore[valid-type]
            text = check_elements(name, lists[name], group, lambda kind, own: load_settings(kind, own, command=command))
            arguments.append(f"--{name}={text}")
        else:
            parser.add_class_arguments(group, name)
    parser.add_class_arguments(settings_class, skip=set(groups))
    try:
        namespace = parser.instantiate(parser.parse_args(arguments))
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        raise Refused(_explain(str(error), dict(setting_types(settings_class)))) from error
    names = [field.name for field in dataclasses.fields(settings_class)]  # type: ignore[arg-type]
    return settings_class(**{name: namespace[name] for name in names})


def settings_as_yaml(settings: Any) -> str:
    """Returns the resolved settings as YAML that `--config` takes."""
    return yaml.safe_dump(dataclasses.asdict(settings), sort_keys=False, allow_unicode=True)


def _spell_out_flags(arguments: Sequence[str], settings_class: type) -> list[str]:
    """Writes `--overwrite` alone out as `--overwrite=true`."""
    types_of_settings = setting_types(settings_class)
    flags = {f"--{name}" for name, kind in types_of_settings if kind is bool or bool in typing.get_args(kind)}
    following = [*arguments, "--"][1:]
    return [
        f"{argument}=true" if argument in flags and after.startswith("-") else argument
        for argument, after in zip(arguments, following, strict=True)
    ]


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


def _explain(message: str, setting_types: dict[str, Any]) -> str:
    """Says what the settings library found wrong: the setting, what it wants, the nearest known name."""
    refused = re.search(r"^\s*- (--[\w.]+=.*)$", message, re.MULTILINE)
    if refused:  # by the checks of a group that may be null: the library lists it beside "Expected NoneType"
        return refused.group(1)
    stray = re.search(r"unrecognized arguments: ([^-\s]\S*)", message)
    if stray:
        return f"unexpected argument {stray.group(1)!r}: settings are given as --key=value"
    unknown = (
        re.search(r"unrecognized arguments: --?([^\s=]+)", message)
        or re.search(r"does not accept option '([^']+)'", message)
        or re.search(r"Option '([^']+)' is not accepted", message)
    )
    if unknown:
        name = unknown.group(1)
        group = re.search(r"[Gg]roup '([^']+)'", message) or re.search(r'Parser key "([^"]+)"', message)
        if group and not name.startswith(group.group(1)):
            name = f"{group.group(1)}.{name}"
        # A name without its group is a common slip: `path` for `source.path`.
        nearest = [known for known in setting_types if known.rsplit(".", 1)[-1] == name][:1]
        nearest = nearest or difflib.get_close_matches(name, setting_types, n=1, cutoff=0.5)
        hint = f"; did you mean --{nearest[0]}?" if nearest else ""
        return f"unknown setting --{name}{hint}"
    missing = re.search(r"the following arguments are required: (\S+)", message) or re.search(
        r'[Kk]ey "([^"]+)" is required', message
    )
    if missing:
        return f"--{missing.group(1)} is needed: give it on the command line or in the --config file"
    # One key inside the other, where a group may be null.
    keys = list(re.finditer(r'Parser key "([^"]+)"', message))
    wrong = ".".join(key.group(1) for key in keys)
    given = re.search(r"(?:Given|Got) value: (.*)", message[keys[-1].end() :] if keys else "")
    if given and wrong in setting_types:
        return f"--{wrong}={given.group(1)}: expected {type_name(setting_types[wrong])}"
    return re.sub(r"\s*\n\s*", " ", message)
