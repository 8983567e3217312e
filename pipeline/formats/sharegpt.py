"""The format `sharegpt`: messages of from and value. They read as those of `messages` do; the name tells them apart."""

from oddsmill.pipeline.formats import messages
from oddsmill.pipeline.formats.rows import Row


def is_sharegpt(row: Row) -> bool:
    """Says whether the first message of a row's answer names its role by `from`."""
    side = row.value("chosen")
    first = side[0] if isinstance(side, list) else side
    return isinstance(first, dict) and "from" in first


FORMAT = messages.FORMAT._replace(is_own=is_sharegpt)
