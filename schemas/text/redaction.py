"""Secrets leave no trace: passwords, keys and tokens in what is kept, logged and refused are written as ***.

They are told by the names of options, and by the places in an address that hold them: `user:password@` and the
signatures in a query. Settings of this package hold none by themselves; options of Beam and addresses may.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

REDACTED = "***"
_SECRET_WORDS = frozenset(
    "key apikey accesskey secretkey privatekey secret secrets password passwd passphrase pwd credential credentials "
    "auth authorization bearer signature sig sas authtoken accesstoken".split()
)
# Before `token`: tokens that a vocabulary holds, and words that make a count or a rule of it.
_OF_A_VOCABULARY = frozenset(
    "pad eos bos unk sep cls mask image video audio special start end stop turn first last next new max min num per "
    "a the this each one added extra begin beginning assistant user system tool think answer".split()
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_USER_OF_ADDRESS = re.compile(r"(?<=://)[^/?#\s'\"]+(?=@)")  # up to the last @: a password may hold one
_IN_QUERY = re.compile(r"(?<=[?&;])([\w.%-]+)=([^&;#\s'\"]+)")
_OPTION = re.compile(r"(?<![\w-])(--?)([A-Za-z][\w.-]*)(=|\s+(?!-))(\"[^\"]*\"|'[^']*'|[^\s;,]+?(?=:?(?:[\s;,]|$)))")
_QUOTED = re.compile(r"""(["'])([\w.-]+)\1(\s*:\s*)(?:(["'])(.*?)(?<!\\)\4|([^\s,}\]"'{\[]+))""")


def is_secret(name: str) -> bool:
    """Tells from its name whether an option holds a secret: `hf_token`, `s3_secret_access_key`, `X-Amz-Signature`."""
    words = [word.lower() for word in _WORDS.findall(name)]
    if _SECRET_WORDS & {word for word, after in pairwise([*words, ""]) if (word, after) != ("key", "value")}:
        return True  # num_key_value_heads counts heads
    return words[-1:] == ["token"] and (words[-2:-1] or ["its"])[0] not in _OF_A_VOCABULARY


def redact_text(text: str) -> str:
    """Returns a text without the secrets that its addresses, options (`--name=value`) and quoted names hold."""
    text = _USER_OF_ADDRESS.sub(_hide_user, text)
    text = _IN_QUERY.sub(lambda match: f"{match[1]}={REDACTED}" if is_secret(match[1]) else match[0], text)
    text = _OPTION.sub(
        lambda match: f"{match[1]}{match[2]}{match[3]}{REDACTED}" if is_secret(match[2]) else match[0], text
    )
    return _QUOTED.sub(_hide_quoted, text)


def redact_arguments(arguments: Sequence[str]) -> list[str]:
    """Returns command line arguments without the values of secret options, `--name=value` or `--name value`."""
    shown: list[str] = []
    follows_secret = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        is_option = name.startswith("-")
        if follows_secret and not is_option:
            shown.append(REDACTED)
        elif is_option and equals and is_secret(name):
            shown.append(f"{name}={REDACTED}")
        else:
            shown.append(redact_text(argument))
        follows_secret = is_option and not equals and is_secret(name)
    return shown


def redact(value: Any, *, names_of_rows: Collection[str] = ()) -> Any:
    """Returns plain values, such as settings, without secrets.

    Args:
      names_of_rows: keys whose mapping has the names of rows, columns and roles for keys; these tell nothing.
    """
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        redacted: dict[Any, Any] = {}
        for name, inner in value.items():
            if name in names_of_rows:
                redacted[name] = _redact_texts(inner)
            elif is_secret(str(name)) and inner not in (None, ""):
                redacted[name] = REDACTED
            else:
                redacted[name] = redact(inner, names_of_rows=names_of_rows)
        return redacted
    if isinstance(value, (list, tuple)):
        return [redact(inner, names_of_rows=names_of_rows) for inner in value]
    return value


def _redact_texts(value: Any) -> Any:
    """Returns plain values without the secrets of their texts, whatever the names of their keys."""
    if isinstance(value, Mapping):
        return {name: _redact_texts(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_redact_texts(inner) for inner in value]
    return redact_text(value) if isinstance(value, str) else value


def _hide_user(match: re.Match[str]) -> str:
    user, colon, _ = match[0].partition(":")
    return f"{user}:{REDACTED}" if colon else REDACTED


def _hide_quoted(match: re.Match[str]) -> str:
    if not is_secret(match[2]):
        return match[0]
    quote = match[4] or ""
    return f"{match[1]}{match[2]}{match[1]}{match[3]}{quote}{REDACTED}{quote}"
