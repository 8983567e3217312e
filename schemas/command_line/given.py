"""The checks of what is given as settings, which come before the settings library sees it.

That library imports the class or the function that a mapping with the key `class_path`, or a text in the place of a
group, names, and calls it. Here settings are values: none of them names code, wherever its text came from. (The one
that does is `source.format`, which only the pipeline reads.)
"""

import dataclasses
import os
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.settings import setting_types
from oddsmill.schemas.text.strict_yaml import NotYaml, parse_yaml

_NAMES_CODE = "class_path"
_SURROGATE = re.compile("[\ud800-\udfff]")  # of bytes that are not UTF-8, as Python hands them over


def groups_of(settings_class: type) -> dict[str, tuple[type, bool]]:
    """Returns the class of each group of settings, by its name, and whether there may be a list of them."""
    groups: dict[str, tuple[type, bool]] = {}
    for name, annotation in typing.get_type_hints(settings_class).items():
        for kind in (annotation, *typing.get_args(annotation)):
            listed = typing.get_origin(kind) is list
            group = typing.get_args(kind)[0] if listed else kind
            if dataclasses.is_dataclass(group):
                groups[name] = (typing.cast(type, group), listed or groups.get(name, (None, False))[1])
    return groups


def check_given(arguments: Sequence[str], settings_class: type) -> None:
    """Checks the text of all settings that hold others: configuration files, groups, mappings and lists.

    Raises:
      Refused: an argument is not UTF-8, a key stands twice, a text is nested or grows without bound, a group is no
        mapping, or a setting names code; says in which argument or line of a file.
    """
    groups = groups_of(settings_class)
    holding = {name for name, kind in setting_types(settings_class) if _holds_values(kind)}
    for argument in join_values(arguments, ["config", *groups, *holding]):
        key, equals, text = argument.partition("=")
        name = key.removeprefix("--")
        if _SURROGATE.search(argument):
            raise Refused(f"{argument}: is not UTF-8; rename what it names")
        if _NAMES_CODE in name.split("."):
            raise Refused(f"{argument}: a setting names no class or function; leave it out")
        if not equals or name not in {"config", *groups, *holding}:
            continue
        is_file = (name == "config" or name in groups) and os.path.isfile(text)
        where = text if is_file else f"--{name}"
        try:
            value = parse_yaml(_read(text) if is_file else text)
        except ValueError as error:
            if is_file or not isinstance(error, NotYaml):
                raise Refused(f"{where}: {error}") from error
            value = text  # it is refused with what its setting expects
        _check_names(value, where)
        if name == "config" and isinstance(value, Mapping):
            if "config" in value:
                raise Refused(f"{where}: config: a file of settings names no other; write its settings into this one")
            _check_groups(value, settings_class, f"{where}: " if is_file else "")
        elif name in groups:
            _check_groups({name: value}, settings_class, "")


def join_values(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """Writes `--source VALUE` as `--source=VALUE`."""
    joined: list[str] = []
    options = {f"--{name}" for name in names}
    for argument in arguments:
        if joined and joined[-1] in options:
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _holds_values(annotation: Any) -> bool:
    kinds = (annotation, *typing.get_args(annotation))
    return any(typing.get_origin(kind) in (dict, list) or kind in (dict, list) for kind in kinds)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise Refused(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no text in UTF-8 ({error.reason} at byte {error.start})") from error


def _check_names(value: Any, where: str) -> None:
    """Refuses a key by which the settings library imports code, at any depth."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if _NAMES_CODE in str(key).split("."):
                raise Refused(f"{where}: {key}: a setting names no class or function; leave it out")
            _check_names(inner, where)
    elif isinstance(value, list):
        for inner in value:
            _check_names(inner, where)


def _check_groups(values: Mapping[str, Any], settings_class: type, where: str) -> None:
    """Refuses a text where a group of settings belongs; the settings library takes it for the name of a class."""
    for name, (group, may_be_list) in groups_of(settings_class).items():
        value = values.get(name)
        if value is None or (isinstance(value, list) and may_be_list):
            continue
        if not isinstance(value, Mapping):
            wanted = "give a group of settings, a list of groups, or a YAML file of one"
            if not may_be_list:
                wanted = "expected a group of settings"
            first = dataclasses.fields(group)[0].name
            raise Refused(f"{where}--{name}={value}: {wanted}; did you mean --{name}.{first}={value}?")
        _check_groups(value, group, where)
