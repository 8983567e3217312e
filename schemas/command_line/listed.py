"""Settings that are one group or a list of groups: `--source.path=…`, or `--source='[{"path": …}, {"path": …}]'`.

A list, in a YAML file or on the command line, stands for the whole setting. The settings library would merge it element
by element with what was given before; here the last that is given whole is taken, and nothing is merged.
"""

import dataclasses
import os
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from oddsmill.schemas.command_line.given import join_values
from oddsmill.schemas.errors import Refused


def listable_groups(settings_class: type) -> dict[str, type]:
    """Returns the class of each group, by its name, that may be given as a list."""
    groups: dict[str, type] = {}
    for name, annotation in typing.get_type_hints(settings_class).items():
        for kind in typing.get_args(annotation):
            if typing.get_origin(kind) is list and dataclasses.is_dataclass(group := typing.get_args(kind)[0]):
                groups[name] = typing.cast(type, group)
    return groups


def take_lists(arguments: Sequence[str], groups: Mapping[str, type]) -> tuple[list[str], dict[str, list[Any]]]:
    """Takes the groups that are given as lists out of the arguments.

    Returns: the arguments without them, and the lists by name.

    Raises:
      Refused: a single setting is given beside a list, which has no one group for it.
    """
    lists: dict[str, list[Any]] = {}
    arguments = join_values(arguments, ["config", *groups])
    for argument in arguments:
        for name, value in _whole_groups(argument, groups):
            if isinstance(value, list):
                lists[name] = value
            else:
                lists.pop(name, None)
    kept = []
    for argument in arguments:
        key = argument.partition("=")[0].removeprefix("--")
        for name in lists:
            if key.startswith(f"{name}."):
                raise Refused(f"{argument}: has no effect, since --{name} is a list; say {key} in the list")
        given = _whole_groups(argument, groups)
        replaced = [name for name, value in given if name in lists or isinstance(value, list)]
        if key not in replaced:
            kept.append(_without(argument, replaced))
    return kept, lists


def check_elements(name: str, values: list[Any], group: type, load: Callable[[type, list[str]], Any]) -> str:
    """Checks each element of a list by itself, so that a refusal says which it is about.

    Args:
      load: reads one group from arguments.

    Returns: the list as YAML on one line.

    Raises:
      Refused: an element is no group, or has a setting that is unknown, missing or wrong.
    """
    fields = "|".join(field.name for field in dataclasses.fields(group))
    if not values:
        raise Refused(f"--{name}=[]: give at least one")
    for number, value in enumerate(values):
        if not isinstance(value, Mapping):
            wanted = "a group of settings, such as {path: …}" if "path" in fields else "a group of settings"
            raise Refused(f"--{name}[{number}]={value}: expected {wanted}")
        try:
            load(group, [f"--config={_flat_yaml(value)}"])
        except Refused as refused:
            setting = rf"(?:--(?:{name}\.)?(?=(?:{fields})\b)|(?<=unknown setting )--)"
            raise Refused(re.sub(setting, f"--{name}[{number}].", str(refused))) from refused
    return _flat_yaml(values)


def _whole_groups(argument: str, groups: Mapping[str, type]) -> list[tuple[str, Any]]:
    """Returns the groups that an argument, or the file that it names, gives as a whole."""
    key, _, text = argument.partition("=")
    if key == "--config":
        values = _read_config(text)
        return [(name, values[name]) for name in groups if name in values]
    name = key.removeprefix("--")
    if name not in groups:
        return []
    value = _read(text) if os.path.isfile(text) else _parse(text)
    return [(name, value)]


def _without(argument: str, names: Sequence[str]) -> str:
    """Returns an argument with these groups left out of the configuration that it gives."""
    if not names:
        return argument
    values = _read_config(argument.partition("=")[2])
    return f"--config={_flat_yaml({name: value for name, value in values.items() if name not in names})}"


def _read_config(text: str) -> Mapping[str, Any]:
    """Returns what a configuration says, a file or its text; nothing where the settings library will refuse it."""
    values = _read(text) if os.path.isfile(text) else _parse(text)
    return values if isinstance(values, Mapping) else {}


def _read(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return _parse(file.read())
    except (OSError, ValueError):
        return path


def _parse(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _flat_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=2**31).strip()
