"""Settings: a frozen dataclass a stage, then a YAML file, then `--key=value`, each over the one before."""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import jsonargparse
import yaml

from oddsmill.schemas.errors import Refused, require

Settings = TypeVar("Settings")
_UNIONS = (types.UnionType, typing.Union)


def load_settings(
    settings_class: type[Settings], arguments: Sequence[str], *, command: str, positional: str | None = None
) -> Settings:
    """Reads the settings of one verb.

    Args:
      settings_class: a frozen dataclass; its defaults are the defaults, its `__post_init__` the checks.
      arguments: what stands after the verb: `--config FILE.yaml`, `--key=value`, `--print_config`, `--help`.
      command: how the verb is called, for the help text.
      positional: the field that a bare first argument sets (`inspect OUT`).

    Raises:
      Refused: an unknown setting (with the nearest known one), a wrong type, a value that a check refuses.
    """
    arguments = _spell_out_flags(arguments, settings_class)
    if positional and arguments and not arguments[0].startswith("-"):
        arguments[0] = f"--{positional}={arguments[0]}"
    parser = jsonargparse.ArgumentParser(prog=command, exit_on_error=False)
    parser.add_argument("--config", action="config", help="A YAML file of settings; the command line wins.")
    parser.add_class_arguments(settings_class)
    try:
        namespace = parser.instantiate(parser.parse_args(arguments))
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        raise Refused(_explain(str(error), dict(setting_types(settings_class)))) from error
    names = [field.name for field in dataclasses.fields(settings_class)]  # type: ignore[arg-type]
    return settings_class(**{name: namespace[name] for name in names})


def settings_as_yaml(settings: Any) -> str:
    """The resolved settings, as they can be given again by `--config`."""
    return yaml.safe_dump(dataclasses.asdict(settings), sort_keys=False, allow_unicode=True)


def require_choices(settings: Any) -> None:
    """Checks the settings that take one of a few values; from Python they come unchecked.

    Raises:
      Refused: a value that is none of them.
    """
    for name, annotation in typing.get_type_hints(type(settings)).items():
        kinds = typing.get_args(annotation) if typing.get_origin(annotation) in _UNIONS else (annotation,)
        literals = [kind for kind in kinds if typing.get_origin(kind) is typing.Literal]
        if not literals:
            continue
        value = getattr(settings, name)
        allowed = [choice for kind in literals for choice in typing.get_args(kind)]
        others = tuple(kind for kind in kinds if kind not in literals)
        wanted = f"expected {type_name(annotation)}"
        require(value in allowed or (bool(others) and isinstance(value, others)), name, value, wanted)


def _spell_out_flags(arguments: Sequence[str], settings_class: type) -> list[str]:
    """`--overwrite` alone means `--overwrite=true`."""
    types_of_settings = setting_types(settings_class)
    flags = {f"--{name}" for name, kind in types_of_settings if kind is bool or bool in typing.get_args(kind)}
    following = [*arguments, "--"][1:]
    return [
        f"{argument}=true" if argument in flags and after.startswith("-") else argument
        for argument, after in zip(arguments, following, strict=True)
    ]


def setting_types(settings_class: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting's dotted name with its type."""
    for name, annotation in typing.get_type_hints(settings_class).items():
        # A group of settings, or one that may be null.
        groups = [part for part in (annotation, *typing.get_args(annotation)) if dataclasses.is_dataclass(part)]
        for group in groups:
            yield from setting_types(typing.cast(type, group), f"{prefix}{name}.")
        if annotation not in groups:
            yield prefix + name, annotation


def type_name(annotation: Any) -> str:
    """A type as a person would write it: `int`, `one of full, response`, `int or null`."""
    if annotation is types.NoneType:
        return "null"
    if typing.get_origin(annotation) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(annotation)))
    if typing.get_origin(annotation) in _UNIONS:
        return " or ".join(map(type_name, typing.get_args(annotation)))
    if typing.get_origin(annotation) is list:
        return f"list of {' or '.join(map(type_name, typing.get_args(annotation)))}"
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
