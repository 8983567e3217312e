"""Reading settings: the defaults of a class, then a YAML file, then `--key=value`, each over the one before."""

import argparse
import dataclasses
import typing
from collections.abc import Sequence

import jsonargparse

from oddsmill.schemas.command_line.given import check_given
from oddsmill.schemas.command_line.listed import check_elements, listable_groups, take_lists
from oddsmill.schemas.command_line.refusals import explain
from oddsmill.schemas.console import LogLevel, show_messages
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.settings import Settings, setting_types

_LOG_LEVEL_HELP = (
    "Beside these: --log_level=debug|info|warning|error, which messages are shown (default: info); "
    "it is no setting and is kept nowhere."
)


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
    check_given(arguments, settings_class)
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
    except (jsonargparse.ArgumentError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise Refused(explain(str(error), dict(setting_types(settings_class)))) from error
    names = [field.name for field in dataclasses.fields(settings_class)]  # type: ignore[arg-type]
    return settings_class(**{name: namespace[name] for name in names})


def _spell_out_flags(arguments: Sequence[str], settings_class: type) -> list[str]:
    """Writes `--overwrite` alone out as `--overwrite=true`."""
    types_of_settings = setting_types(settings_class)
    flags = {f"--{name}" for name, kind in types_of_settings if kind is bool or bool in typing.get_args(kind)}
    following = [*arguments, "--"][1:]
    return [
        f"{argument}=true" if argument in flags and after.startswith("-") else argument
        for argument, after in zip(arguments, following, strict=True)
    ]
