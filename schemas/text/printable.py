"""Text that came as data, as a terminal can show it and does not obey it: rows, ids, keys, names of files, answers."""

import json
import re
from typing import Any

from oddsmill.schemas.text.redaction import redact_text

# What a terminal or an editor obeys: C0 but for tabs and ends of lines, DEL and C1; the separators of lines and
# paragraphs; the marks, embeddings, overrides and isolates that turn the direction of text. And surrogates, which
# UTF-8 cannot hold.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_NEXT_LINE = re.compile(r"\n(?=\S)")


def printable(text: str) -> str:
    """Returns a text with each character that a terminal obeys written as Python writes it, such as \\x1b."""
    return _OBEYED.sub(lambda match: repr(match.group())[1:-1], text)


def printable_line(text: str) -> str:
    """Returns a text that is one line by its nature, such as a name, on one line."""
    return printable(text.replace("\n", "\\n").replace("\t", "\\t"))


def printable_message(text: str) -> str:
    """Returns a message as people are shown it: printable, without secrets, its further lines indented.

    So what it quotes cannot look like another message.
    """
    return _NEXT_LINE.sub("\n  ", printable(redact_text(text)))


def printable_json(value: Any) -> str:
    """Returns a value as JSON on one line: all of Unicode stays as it is, but for the characters named above."""
    text = json.dumps(value, ensure_ascii=False)
    return _OBEYED.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
