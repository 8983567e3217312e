"""The format `triple`: three strings prompt, chosen, rejected."""

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats.pairs import PreferencePair
from oddsmill.pipeline.formats.rows import Row, RowFormat


def read(row: Row, _: SourceConfig) -> list[PreferencePair]:
    """Takes the three texts as they stand."""
    return [PreferencePair(row.text("prompt"), row.text("chosen"), row.text("rejected"))]


FORMAT = RowFormat(read)
