"""Refusals of settings, in our own words: the settings library says what is wrong by its own names."""

import difflib
import re
from typing import Any

from oddsmill.schemas.settings import type_name


def explain(message: str, setting_types: dict[str, Any]) -> str:
    """Says what the settings library found wrong: the setting, what it wants, the nearest known name."""
    refused = re.search(r"^\s*- (--[\w.]+=.*)$", message, re.MULTILINE)
    if refused:  # by the checks of a group that may be null: the library lists it beside "Expected NoneType"
        return refused.group(1)
    stray = re.search(r"unrecognized arguments: ([^-\s]\S*)", message)
    if stray:
        return f"unexpected argument {stray.group(1)!r}: settings are given as --name=value"
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
